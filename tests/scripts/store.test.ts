/** `flk store …` as a person types it: arguments of every kind, answers, and what is refused. */
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { flkBytes } from '../support/byte-streams.ts';
import { type CliWorld, cliWorld } from '../support/cli.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

const onDisk = (world: CliWorld, path: string): string => join(world.env.XDG_DATA_HOME!, 'flk', path);

async function add(world: CliWorld, name: string, files: Readonly<Record<string, string>>): Promise<string> {
  const folder = join(world.folder, name);
  mkdirSync(folder);
  for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), text);
  const { status, stdout, stderr } = await world.flk(['store', 'add', folder]);
  expect(status, stderr).toBe(0);
  return stdout.trim();
}

async function says(world: CliWorld, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await world.flk(['store', ...args]);
  expect(status, stderr).toBe(0);
  return stdout.trimEnd();
}

async function refuses(world: CliWorld, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await world.flk(['store', ...args]);
  expect(status, stdout).not.toBe(0);
  return stderr;
}

describe('paths as arguments', () => {
  it('are store paths, places below, places on disk, and links that lead there', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    const physical = onDisk(world, path);
    symlinkSync(physical, join(world.folder, 'result'));
    symlinkSync('result', join(world.folder, 'again'));
    symlinkSync(path, join(world.folder, 'logical'));
    symlinkSync(world.env.XDG_DATA_HOME!, join(world.folder, 'data-link'));
    for (const text of [
      path,
      `${path}/`,
      physical,
      'result',
      './again',
      'logical',
      `data-link/flk${path}`,
      `../work/result`,
    ])
      expect(await says(world, 'path-info', text), text).toBe(path);
    for (const text of [`${path}/a`, 'result/a', './again//a', 'logical/./a'])
      expect(await says(world, 'cat', text), text).toBe('text');
  });

  it('are refused with what would have been right', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    const [base, part] = [path.slice('/nix/store/'.length), path.slice('/nix/store/'.length).slice(0, 32)];
    expect(await refuses(world, 'path-info', part)).toContain(`flk store path-from-hash-part ${part}`);
    expect(await refuses(world, 'path-info', base)).toContain(`hint: ${path}`);
    expect(await refuses(world, 'path-info', '/etc')).toContain('FLK_STORE_PATH_INVALID');
    expect(await refuses(world, 'path-info', '/nix/store')).toContain('FLK_STORE_PATH_INVALID');
    symlinkSync('round', join(world.folder, 'round'));
    expect(await refuses(world, 'path-info', 'round')).toContain('FLK_STORE_PATH_INVALID');
    expect(await refuses(world, 'cat', `${path}/../../../../etc/passwd`)).toContain('leads out');
    const unknown = '/nix/store/00000000000000000000000000000000-none';
    expect(await refuses(world, 'path-info', unknown)).toContain('FLK_STORE_PATH_UNKNOWN');
    expect(await refuses(world, 'path-from-hash-part', '0'.repeat(32))).toContain('FLK_STORE_PATH_UNKNOWN');
    expect(await refuses(world, 'cat', `${path}/b`)).toContain(`hint: flk store ls ${path}`);
  });

  it('follow no link within the store', async () => {
    const world = cliWorld();
    const folder = join(world.folder, 'tree');
    mkdirSync(folder);
    symlinkSync('/etc', join(folder, 'out'));
    const path = await says(world, 'add', folder);
    expect(await refuses(world, 'cat', `${path}/out/passwd`)).toContain(
      'is a symlink, which is not followed',
    );
    expect(await refuses(world, 'cat', `${path}/out`)).toContain('is not a file');
    expect(await says(world, 'ls', '-l', `${path}/out`)).toMatch(/^lrwxrwxrwx +0 out -> \/etc$/);
  });
});

describe('flk store', () => {
  it('knows its commands and their options', async () => {
    const world = cliWorld();
    expect(await refuses(world, 'lss')).toContain('hint: flk store ls');
    expect(await refuses(world, 'ls')).toContain('flk store ls takes PATH');
    expect(await refuses(world, 'ls', '--sigs', 'x')).toContain('flk store ls has no option --sigs');
    expect(await refuses(world, 'path-info')).toContain('either PATH… or --all');
    expect(await refuses(world, 'path-info', '--all', '--json-format', '3')).toContain(
      '--json-format 1 or 2',
    );
    expect(await refuses(world, 'add', '--name', 'x', 'a', 'b')).toContain('--name names one path');
    expect(await refuses(world, 'add', '--mode', 'git', 'a')).toContain('--mode nar, flat or text');
    expect(await refuses(world, 'add', join(world.folder, 'none'))).toContain('FLK_FILE_UNREADABLE');
  });

  it('finds what was changed, tells it in JSON too, and says how to go on', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    expect(await says(world, 'verify')).toBe('1 path checked: no fault');
    chmodSync(onDisk(world, `${path}/a`), 0o644);
    writeFileSync(onDisk(world, `${path}/a`), 'other');
    const found = await world.flk(['store', 'verify', path]);
    expect(found.status).toBe(1);
    expect(found.stdout).toMatch(/: corrupt: found sha256-.*, wanted sha256-/);
    expect(found.stdout).toContain('flk store repair');
    const json = JSON.parse((await world.flk(['store', 'verify', '--json'])).stdout);
    expect(json).toMatchObject({
      checked: 1,
      database: [],
      faults: [{ kind: 'corrupt', path }],
      orphans: [],
    });
    expect(await says(world, 'verify', '--no-contents')).toBe('1 path checked: no fault');
    const repair = await world.flk(['store', 'repair', '--all']);
    expect(repair.status).toBe(1);
    expect(repair.stdout).toContain('broken still');
    expect((await flkBytes(world, ['store', 'dump-path', path])).status).toBe(4);
    expect(await refuses(world, 'verify', '--all', path)).toContain('FLK_USAGE');
  });

  it('repairs from a cache', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    const cache = join(world.folder, 'cache');
    expect((await world.flk(['cache', 'push', cache, path])).status).toBe(0);
    chmodSync(onDisk(world, `${path}/a`), 0o644);
    writeFileSync(onDisk(world, `${path}/a`), 'other');
    const env = { NIX_CONFIG: `substituters = file://${cache}` };
    const repair = await world.flk(['store', 'repair', path], { env });
    expect(repair, repair.stderr).toMatchObject({ status: 0, stdout: `${path}: made anew\n` });
    expect(await says(world, 'verify')).toBe('1 path checked: no fault');
    expect(await says(world, 'repair', '--all')).toBe('nothing is broken');
  });

  it('deletes what nothing keeps, and says what keeps the rest', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    const roots = onDisk(world, '/nix/var/nix/gcroots');
    mkdirSync(roots, { recursive: true });
    symlinkSync(path, join(roots, 'mine'));
    const kept = await refuses(world, 'delete', path);
    expect(kept).toContain('FLK_STORE_PATH_ALIVE');
    expect(kept).toContain('gcroots/mine');
    rmSync(join(roots, 'mine'));
    expect(await says(world, 'delete', path)).toMatch(/: removed, .* free$/);
    expect(readdirSync(onDisk(world, '/nix/store'))).toEqual([]);
    expect(await refuses(world, 'delete', path)).toContain('FLK_STORE_PATH_UNKNOWN');
  });

  it('tells which files differ, how large paths are, and makes equal files one', async () => {
    const world = cliWorld();
    const text = 'x'.repeat(20_000);
    const [one, two] = [
      await add(world, 'one-1', { a: text, b: '1' }),
      await add(world, 'one-2', { a: text, b: '2' }),
    ];
    expect(await says(world, 'diff', one, two)).toBe('one: 1 → 2');
    expect(await says(world, 'diff', '--files', one, two)).toMatch(/^b /);
    const usage = JSON.parse(await says(world, 'du', '--json'));
    expect(usage.paths.map(({ path }: { path: string }) => path).sort()).toEqual([one, two].sort());
    expect(await says(world, 'optimise')).toMatch(/^1 files? /);
    expect(await says(world, 'verify')).toBe('2 paths checked: no fault');
  });

  it('imports only what proves itself, or what it is told to trust', async () => {
    const world = cliWorld();
    const path = await add(world, 'tree', { a: 'text\n' });
    const { stdout: stream } = await flkBytes(world, ['store', 'export', path]);
    const other = cliWorld();
    const taken = await flkBytes(other, ['store', 'import'], stream);
    expect(taken.stdout.toString(), taken.stderr).toBe(`${path}\n`);
    const forged = Buffer.from(stream.toString('latin1').replace('text\n', 'TEXT\n'), 'latin1');
    const third = cliWorld();
    const refused = await flkBytes(third, ['store', 'import'], forged);
    expect(refused.status).toBe(4);
    expect(refused.stderr).toContain('FLK_EXPORT_UNTRUSTED');
    expect((await flkBytes(third, ['store', 'import', '--no-check-sigs'], forged)).status).toBe(0);
    const untrusted = await third.flk(['store', 'verify']);
    expect(untrusted.stdout).toContain('untrusted');
    expect(untrusted.status).toBe(1);
    const broken = await flkBytes(other, ['store', 'import'], stream.subarray(0, 200));
    expect(broken.stderr).toMatch(/FLK_(EXPORT|NAR)_INVALID/);
  });

  it('restores into what is not there yet, and leaves nothing where the NAR is none', async () => {
    const world = cliWorld();
    const place = join(world.folder, 'new');
    const refused = await flkBytes(world, ['store', 'restore', place], Buffer.from('no NAR'));
    expect(refused.status).toBe(4);
    expect(readdirSync(world.folder)).toEqual([]);
    const path = await add(world, 'tree', { a: 'text\n' });
    const { stdout: nar } = await flkBytes(world, ['store', 'dump-path', path]);
    expect((await flkBytes(world, ['store', 'restore', place], nar)).status).toBe(0);
    expect(readFileSync(join(place, 'a'), 'utf8')).toBe('text\n');
    expect((await flkBytes(world, ['store', 'restore', place], nar)).stderr).toContain('exists');
  });
});

describe('names of all bytes', () => {
  it('are listed, on one line each, with nothing that steers a terminal', async () => {
    const world = cliWorld();
    const tree = join(world.folder, 'tree');
    mkdirSync(tree);
    for (const name of ['\x1b[31mred', 'a\nb', 'c\rd', '\xc2\x9b31mhigh', '\xff\xfe'])
      writeFileSync(Buffer.from(`${tree}/${name}`, 'latin1'), '1');
    symlinkSync('\x1b[2Jx', join(tree, 'link'));
    const { stdout: path } = await world.flk(['store', 'add', 'tree']);
    const short = await world.flk(['store', 'ls', path.trim()]);
    expect(short.stdout.split('\n'), short.stderr).toEqual([
      './red',
      './a?b',
      './c?d',
      './link',
      './high',
      './\ufffd\ufffd',
      '',
    ]);
    const long = await world.flk(['store', 'ls', '-lR', path.trim()]);
    expect(long.stdout).toContain('./link -> x\n');
    expect(long.stdout).not.toContain('\x1b');
    const json = await world.flk(['store', 'ls', '--json', '-R', path.trim()]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      entries: { 'a\nb': { size: 1 }, '\ufffd\ufffd': { size: 1 } },
    });
    expect((await world.flk(['store', 'verify', '--all'])).status).toBe(0);
  });
});

describe('long answers', () => {
  it('reach a slow reader to the last byte', async () => {
    const world = cliWorld();
    const files = Object.fromEntries(Array.from({ length: 4000 }, (_, i) => [`${'n'.repeat(100)}-${i}`, '']));
    const path = await add(world, 'many', files);
    const big = await add(world, 'big', { file: 'y'.repeat(3_000_000) });
    for (const [args, size] of [
      [['ls', path], 4000 * 104 + 14_890],
      [['cat', `${big}/file`], 3_000_000],
    ] as const) {
      const line = `exec "$0" "$@" | (sleep 0.3; wc -c)`;
      const count = execFileSync('sh', ['-c', line, process.execPath, program, 'store', ...args], {
        env: { ...world.env },
      });
      expect(Number(count.toString())).toBe(size);
    }
  });

  it('end well, and at once, when the reader has seen enough', async () => {
    const world = cliWorld();
    const path = await add(world, 'big', { file: 'y'.repeat(30_000_000) });
    for (const args of [
      ['dump-path', path],
      ['export', path],
      ['cat', `${path}/file`],
    ]) {
      const child = spawn(process.execPath, [program, 'store', ...args], { env: { ...world.env } });
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
      child.stdout.once('data', () => child.stdout.destroy());
      const status = await new Promise((resolve) => child.on('close', resolve));
      expect([status, said], args.join(' ')).toEqual([0, '']);
    }
  });
});
