/**
 * A repository of the shape that large package collections have: some 40,000 files in 30,000 folders, 313 MB, most files small,
 * a few large. The same bytes, and so the same revision, on every machine.
 *
 *     node bench/synth.mjs FOLDER      makes FOLDER/big.git (bare) and prints its revision
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const packages = 28_900;
const extraFiles = 11_034;
const totalBytes = 313e6;

/** A small generator with a fixed start (mulberry32): numbers in [0, 1). */
function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Text that deflates about as well as source code does. */
function textMaker(random) {
  const letters = 'etaoinshrdlucmfwypvbgkjqxz';
  const words = Array.from({ length: 1200 }, () =>
    Array.from(
      { length: 2 + Math.floor(random() * 9) },
      () => letters[Math.floor(random() ** 2 * letters.length)],
    ).join(''),
  );
  return (size) => {
    const parts = [];
    for (let length = 0; length < size; ) {
      const word = words[Math.floor(random() ** 18 * words.length)];
      const end = random() < 0.12 ? ';\n  ' : ' ';
      parts.push(word, end);
      length += word.length + end.length;
    }
    return Buffer.from(parts.join('')).subarray(0, size);
  };
}

function* files(random) {
  const text = textMaker(random);
  const folders = [];
  for (let i = 0; i < packages; i++) {
    const name = `p${i.toString(36)}-${Math.floor(random() * 1e6).toString(36)}`;
    const folder = `pkgs/by-name/${String.fromCharCode(97 + (i % 26))}${Math.floor(i / 26) % 40}/${name}`;
    folders.push(folder);
    yield {
      path: `${folder}/package.nix`,
      data: text(400 + Math.floor(random() ** 3 * 6000)),
      mode: '100644',
    };
  }
  // The rest of the bytes goes into fewer files: patches, generated sets, lock files.
  const rest = totalBytes - packages * 1900;
  for (let i = 0; i < extraFiles; i++) {
    const size = Math.floor((rest / extraFiles) * (i % 100 === 0 ? 40.3 : 0.605) * (0.5 + random()));
    const kind = ['patch', 'json', 'sh', 'lock'][i % 4];
    yield {
      path: `${folders[Math.floor(random() * folders.length)]}/file${i}.${kind}`,
      data: text(size),
      mode: kind === 'sh' ? '100755' : '100644',
    };
  }
}

/** Makes `FOLDER/big.git` unless it is there. `rev` is the one commit, on `main`. */
export async function synthesise(folder) {
  const repository = join(folder, 'big.git');
  const note = join(folder, 'big.json');
  if (existsSync(note)) return { repository, ...JSON.parse(readFileSync(note, 'utf8')) };
  mkdirSync(folder, { recursive: true });
  const staged = `${repository}.${process.pid}`;
  const git = (...args) => {
    const { status, stdout, stderr } = spawnSync('git', ['-C', staged, ...args], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`git ${args[0]}: ${stderr}`);
    return stdout.trim();
  };
  mkdirSync(staged);
  git('init', '-q', '--bare', '-b', 'main');
  const importer = spawn('git', ['-C', staged, 'fast-import', '--quiet', '--date-format=raw'], {
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  const write = async (data) => {
    if (!importer.stdin.write(data)) await once(importer.stdin, 'drain');
  };
  const random = randomNumbers(40_000);
  let count = 0;
  let bytes = 0;
  await write(
    'commit refs/heads/main\ncommitter Synth <synth@example.org> 1700000000 +0000\ndata 6\nsynth\n',
  );
  for (const { path, data, mode } of files(random)) {
    await write(`M ${mode} inline ${path}\ndata ${data.length}\n`);
    await write(data);
    await write('\n');
    count++;
    bytes += data.length;
  }
  importer.stdin.end('\ndone\n');
  const [status] = await once(importer, 'close');
  if (status !== 0) throw new Error('git fast-import failed');
  git('repack', '-adfq', '--window=10', '--depth=50');
  const facts = { rev: git('rev-parse', 'main'), files: count, bytes };
  rmSync(repository, { recursive: true, force: true });
  renameSync(staged, repository);
  writeFileSync(note, JSON.stringify(facts));
  return { repository, ...facts };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  console.log(JSON.stringify(await synthesise(resolve(process.argv[2] ?? 'bench/out'))));
}
