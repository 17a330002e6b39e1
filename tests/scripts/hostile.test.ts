/** What others may put in a person's way, met by the program itself: its status, the code that it gives, and a store that stays clean. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { generateSecretKey, printPublicKey, publicKeyOf } from '../../src/formats/signature.ts';
import { sandboxVariants } from '../support/builds.ts';
import { flkBytes } from '../support/byte-streams.ts';
import { type CliResult, type CliWorld, cliWorld, flakeWorld } from '../support/cli.ts';
import { hostileCache, type OfferTricks, rawNar, tricks } from '../support/hostile-cache.ts';
import { directory, file } from '../support/trees.ts';

const key = generateSecretKey('honest-1');
const sample = directory({ a: file('one\n'), large: file('0123456789'.repeat(60_000)) });

const storeOf = (world: CliWorld): string => join(world.env.XDG_DATA_HOME!, 'flk');

/** Nothing but these paths is there, all of them whole, and nothing waits in a stage. */
async function expectClean(world: CliWorld, allowed: RegExp = /(?!)/): Promise<void> {
  const names = readdirSync(join(storeOf(world), 'nix/store')).filter((name) => name !== '.links');
  expect(names.filter((name) => !allowed.test(name))).toEqual([]);
  const stage = join(storeOf(world), 'nix/var/flk/stage');
  if (existsSync(stage)) expect(readdirSync(stage)).toEqual([]);
  const verified = await world.flk(['store', 'verify', '--all']);
  expect(verified.status, verified.stdout).toBe(0);
}

function refused({ status, stderr }: CliResult): { readonly status: number | null; readonly code: string } {
  expect(stderr).not.toContain('FLK_INTERNAL');
  return { status, code: /error\[(\w+)\]/.exec(stderr)?.[1] ?? stderr };
}

/** A machine that trusts the honest key. */
const trusting = (): CliWorld =>
  cliWorld({ NIX_CONFIG: `extra-trusted-public-keys = ${printPublicKey(publicKeyOf(key))}` });

const entry = (name: string): string[] => [
  ...['entry', '(', 'name', name, 'node', '(', 'type', 'regular', 'contents', 'x', ')', ')'],
];
const folder = (...names: string[]): Buffer =>
  rawNar('nix-archive-1', '(', 'type', 'directory', ...names.flatMap(entry), ')');
const throughLink = rawNar(
  ...['nix-archive-1', '(', 'type', 'directory', 'entry', '(', 'name', 'a', 'node', '('],
  ...['type', 'symlink', 'target', '/tmp', ')', ')', ...entry('a/x'), ')'],
);

describe('flk cache pull, from a hostile cache', () => {
  it.each<readonly [what: string, status: number, code: RegExp, given: OfferTricks]>([
    ['an honest path', 0, /./, { key }],
    ['a stranger’s signature', 4, /^FLK_CACHE_UNTRUSTED$/, { key: generateSecretKey('honest-1') }],
    [
      'a forged narinfo',
      4,
      /^FLK_CACHE_INVALID$/,
      { key, text: (text) => text.replace(/^StorePath: .*$/m, 'StorePath: /etc/passwd') },
    ],
    ['an unsorted NAR', 4, /^FLK_NAR_INVALID$/, { key, nar: folder('b', 'a') }],
    ['names that lead out', 4, /^FLK_NAR_INVALID$/, { key, nar: folder('../../x') }],
    ['entries behind a symlink', 4, /^FLK_NAR_INVALID$/, { key, nar: throughLink }],
    [
      'another archive',
      4,
      /MISMATCH|CACHE_INVALID/,
      { key, serveNar: (_q, r) => void r.end(folder('evil')) },
    ],
    ['more than it says', 4, /CACHE_INVALID|LIMIT/, { key, info: { narSize: 400 } }],
    [
      'an archive without end',
      4,
      /INVALID|LIMIT/,
      { key, serveNar: tricks.endless(Buffer.alloc(65_536, 'x')) },
    ],
    [
      'references that nobody has',
      1,
      /^FLK_CACHE_MISSING$/,
      { key, info: { references: ['/nix/store/6sjqj4z0f22yb6n7qb9fanygm3s14zyq-app-1' as never] } },
    ],
  ])('%s', async (_what, status, code, given) => {
    const world = trusting();
    const cache = await hostileCache();
    const { path } = await cache.offer('x', sample, given);
    const answer = await world.flk(['cache', 'pull', cache.url, path]);
    expect(answer.status, answer.stderr).toBe(status);
    if (status === 0) expect(answer.stdout).toBe(`${path}\n`);
    else expect(refused(answer).code).toMatch(code);
    await expectClean(world, status === 0 ? /-x$/ : undefined);
  });

  it('prints no password of its address, nor what would steer a terminal', async () => {
    const world = cliWorld();
    const cache = await hostileCache();
    const { path } = await cache.offer('x', sample, {
      text: (text) => `${text}\x1b[31m: \x1b]0;title\x07\n`,
    });
    const url = cache.url.replace('//', '//user:hush%40hush@');
    for (const args of [
      ['cache', 'pull', url, path],
      ['cache', 'info', url],
      ['cache', 'pull', 'http://user:hush@127.0.0.1:1/', path],
      ['cache', 'pull', 'https://user:hu@sh@[/', path],
    ]) {
      const { stdout, stderr } = await world.flk([...args, '--log-format', 'plain']);
      expect(`${stdout}${stderr}`).not.toMatch(/hush|hu@|sh@|\x1b|\x07/);
    }
  });
});

describe('flk store import and restore, from a hostile stream', () => {
  const long = Buffer.alloc(8);
  long.writeBigUInt64LE(4n << 30n);
  const claim = Buffer.concat([
    rawNar('nix-archive-1', '(', 'type', 'regular', 'contents'),
    long,
    Buffer.from('x'),
  ]);
  const deep = rawNar(
    'nix-archive-1',
    ...Array.from({ length: 10_000 }, () => [
      '(',
      'type',
      'directory',
      'entry',
      '(',
      'name',
      'd',
      'node',
    ]).flat(),
  );
  it.each<readonly [what: string, nar: Buffer]>([
    ['unsorted', folder('b', 'a')],
    ['with ..', folder('..')],
    ['that write through a symlink', throughLink],
    ['of a few bytes that say they are 4 GiB', claim],
    ['ten thousand folders deep', deep],
    ['with a string longer than memory', Buffer.from('0000000000000040', 'hex')],
  ])('NARs %s', async (_what, nar) => {
    const world = cliWorld();
    const restored = await flkBytes(world, ['store', 'restore', 'place'], nar);
    expect(refused({ ...restored, stdout: '' })).toEqual({ status: 4, code: 'FLK_NAR_INVALID' });
    expect(readdirSync(world.folder)).toEqual([]);
    const one = Buffer.alloc(8);
    one.writeUInt8(1);
    const imported = await flkBytes(world, ['store', 'import', '--no-check-sigs'], Buffer.concat([one, nar]));
    expect(refused({ ...imported, stdout: '' })).toMatchObject({
      status: 4,
      code: expect.stringMatching(/_INVALID$/),
    });
    await expectClean(world);
  });
});

const canBuild = sandboxVariants.some(({ usable }) => usable);

describe.skipIf(!canBuild)(
  `flk build, of hostile builders${canBuild ? '' : ' (no sandbox on this machine)'}`,
  () => {
    it.each<
      readonly [what: string, code: string, script: string, options?: readonly string[], outputs?: string]
    >([
      ['chmods', 'FLK_BUILD_FAILED', 'mkdir $out; chmod 0 $out; chmod 777 / /nix /etc /usr'],
      ['leaves a pipe', 'FLK_BUILD_OUTPUT_INVALID', 'mkfifo $out'],
      ['leaves nothing', 'FLK_BUILD_OUTPUT_MISSING', ':'],
      ['sleeps', 'FLK_BUILD_TIMEOUT', 'sleep 98761', ['--timeout', '1']],
      [
        'forks and sleeps',
        'FLK_BUILD_TIMEOUT',
        'for i in 1 2 3; do setsid sleep 98761 & done; wait',
        ['--timeout', '1'],
      ],
      ['is silent', 'FLK_BUILD_TIMEOUT', 'sleep 98761', ['--max-silent-time', '1']],
      [
        'names its outputs in a circle',
        'FLK_BUILD_OUTPUT_INVALID',
        'echo $dev > $out; echo $out > $dev',
        [],
        'outputs: [out, dev]',
      ],
    ])('that %s', async (_what, code, script, options = [], outputs = '') => {
      const world = flakeWorld(
        `packages:\n  default:\n    toolchain: host\n    ${outputs}\n    installPhase: ${JSON.stringify(script)}\n`,
      );
      expect(refused(await world.flk(['build', ...options]))).toEqual({ status: 1, code });
      // What the build was made of stays.
      await expectClean(world, /\.drv$|-setup-\d+\.sh$/);
      expect(existsSync(join(world.folder, 'result'))).toBe(false);
    });
  },
);

describe('links and files of the store that others wrote', () => {
  it('a profile’s manifest with passwords and escape sequences is listed without them', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'text'), 'x');
    const { stdout: path } = await world.flk(['store', 'add', 'text']);
    const source = 'git+https://user:hu@sh@host/x\x1b[31m';
    const element = {
      active: true,
      storePaths: [path.trim()],
      originalUrl: source,
      url: source,
      attrPath: 'a',
    };
    const place = join(world.folder, 'forged');
    mkdirSync(place);
    let generation = 0;
    const forged = async (text: string): Promise<void> => {
      writeFileSync(join(place, 'manifest.json'), text);
      const { stdout: profile } = await world.flk(['store', 'add', 'forged', '--name', 'profile']);
      symlinkSync(join(storeOf(world), profile.trim()), join(world.folder, `p-${++generation}-link`));
      rmSync(join(world.folder, 'p'), { force: true });
      symlinkSync(`p-${generation}-link`, join(world.folder, 'p'));
    };
    await forged(JSON.stringify({ version: 2, elements: [element] }));
    for (const json of [[], ['--json']]) {
      const { status, stdout, stderr } = await world.flk(['profile', 'list', '--profile', './p', ...json]);
      expect(status, stderr).toBe(0);
      expect(stdout).toContain('https://***@host/x');
      expect(stdout).not.toMatch(/hu@|sh@|\x1b/);
    }
    for (const text of [
      '{',
      '[]',
      'null',
      '{"version":99,"elements":{}}',
      '{"version":3,"elements":{"x":null}}',
    ]) {
      await forged(text);
      const listed = await world.flk(['profile', 'list', '--profile', './p']);
      expect(refused(listed)).toEqual({ status: 2, code: 'FLK_PROFILE_INVALID' });
    }
  });

  it('a database that is none is left alone', async () => {
    const world = cliWorld();
    await world.flk(['store', 'add', '.']);
    const database = join(storeOf(world), 'nix/var/flk/store.sqlite');
    for (const end of ['-wal', '-shm']) rmSync(`${database}${end}`, { force: true });
    const noise = Buffer.alloc(20_000, 'no database');
    writeFileSync(database, noise);
    for (const args of [['store', 'verify', '--all'], ['gc'], ['store', 'add', '.']])
      expect(refused(await world.flk(args))).toEqual({ status: 2, code: 'FLK_STORE_INVALID' });
    expect(readFileSync(database).equals(noise)).toBe(true);
  });

  it('a link to nowhere, or round in circles, is no package', async () => {
    const world = cliWorld();
    symlinkSync('/nix/store/nowhere', join(world.folder, 'result'));
    symlinkSync('loop', join(world.folder, 'loop'));
    for (const args of [
      ['store', 'ls', './result'],
      ['store', 'ls', './loop'],
      ['why-alive', './result'],
      ['log', './loop'],
    ])
      expect(refused(await world.flk(args)).status, args.join(' ')).toBeGreaterThan(0);
  });
});
