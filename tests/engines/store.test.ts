/** `flk store …` beside `nix store …`, `nix path-info` and `nix-store`: the same paths on both sides, the same answers. */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { flkBytes, nixBytes } from '../support/byte-streams.ts';
import { type CliWorld, cliWorld } from '../support/cli.ts';
import { nix, nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

/** An app that refers to two libraries, both of which refer to a third, which refers to itself; with all that a path may hold. */
const expression = (salt: string): string => `
let mk = name: script: derivation {
  inherit name;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" ("PATH=/bin:/usr/bin; : \${salt};" + script) ];
};
salt = "${salt}";
in rec {
  libc = mk "libc-1.0" "mkdir $out; echo $out > $out/self";
  libb = mk "libb-2.0" "mkdir -p $out/lib; echo '\${libc} is it' > $out/lib/b; ln -s \${libc}/self $out/lib/c";
  libd = mk "libd-2.1-dev" "mkdir -p $out/lib; head -c 70000 /dev/zero > $out/lib/d; printf '\\001\${libc}\\377' >> $out/lib/d";
  app = mk "app-3.0" "mkdir -p $out/bin $out/empty; echo '\${libb} \${libd}' > $out/bin/app; chmod +x $out/bin/app; ln -s ../bin/app $out/empty/link; ln -s /etc/passwd $out/outside; ln -s bin $out/binlink; ln -s \${libb} $out/b; ln -s loop $out/loop; echo x > \\"$out/we ird ü\\"; : > $out/nothing";
  file = mk "one-file" "echo \${libc} > $out; chmod +x $out";
}
`;

interface Fixture {
  readonly world: CliWorld;
  readonly app: string;
  readonly libb: string;
  readonly libc: string;
  readonly libd: string;
  readonly file: string;
  /** `nix-store --export` of the app with all that it refers to, and of the file. */
  readonly stream: Buffer;
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '');
/** Nix colours what it writes to files, too. */
const plain = (text: string): string => text.replace(/\u001b\[[0-9;]*m/g, '');

async function nixStore(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await nixCommand('nix-store', args);
  expect(status, stderr).toBe(0);
  return stdout;
}

async function arrange(): Promise<Fixture> {
  const world = cliWorld();
  const source = join(world.folder, 'paths.nix');
  writeFileSync(source, expression(randomBytes(8).toString('hex')));
  const names = ['app', 'libb', 'libc', 'libd', 'file'];
  const built = await nix(['build', '--impure', '--no-link', '--print-out-paths', '-f', source, ...names]);
  expect(built.status, built.stderr).toBe(0);
  const [app = '', libb = '', libc = '', libd = '', file = ''] = lines(built.stdout);
  const { stdout: stream } = await nixBytes(`nix-store --export $(nix-store -qR ${app} ${file}) > $OUT`);
  const imported = await flkBytes(world, ['store', 'import', '--no-check-sigs'], stream);
  expect(imported.status, imported.stderr).toBe(0);
  return { world, app, libb, libc, libd, file, stream };
}

describe.skipIf(!nixAvailable())(`flk store beside Nix ${nixReason}`, () => {
  let fixture: Fixture;
  beforeAll(async () => {
    fixture = await arrange();
  });

  const flk = async (...args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await fixture.world.flk(['store', ...args]);
    expect(status, stderr).toBe(0);
    return stdout;
  };

  it('export the same bytes, in the same order', async () => {
    const { world, app, libb, libc, file, stream } = fixture;
    const whole = await flkBytes(world, ['store', 'export', '-r', file, app]);
    expect(whole.stdout.equals(stream), whole.stderr).toBe(true);
    const some = [app, libc, file, libb];
    const theirs = await nixBytes(`nix-store --export ${some.join(' ')} > $OUT`);
    const ours = await flkBytes(world, ['store', 'export', ...some]);
    expect(ours.stdout.equals(theirs.stdout)).toBe(true);
    expect(theirs.stdout.length).toBeGreaterThan(0);
  });

  it('import what the other exports', async () => {
    const { world, app, libc } = fixture;
    const other = cliWorld();
    const theirs = await nixBytes(`nix-store --export $(nix-store -qR ${app}) > $OUT`);
    const said = await flkBytes(other, ['store', 'import', '--no-check-sigs'], theirs.stdout);
    expect(lines(said.stdout.toString())).toEqual(lines(await nixStore('-qR', app)));
    const records = JSON.parse((await other.flk(['store', 'path-info', '--json', libc])).stdout);
    expect(records[libc]).toMatchObject({ ultimate: false, signatures: [] });

    const own = join(temporaryFolder(), 'own');
    mkdirSync(join(own, 'sub'), { recursive: true });
    writeFileSync(join(own, 'sub/file'), randomBytes(100_000));
    symlinkSync('sub', join(own, 'link'));
    const path = lines((await world.flk(['store', 'add', own])).stdout)[0]!;
    const ours = await flkBytes(world, ['store', 'export', path]);
    const taken = await nixBytes('nix-store --import < $IN > $OUT', ours.stdout);
    expect(taken.stdout.toString(), taken.stderr).toBe(`${path}\n`);
    expect((await nixCommand('nix-store', ['--verify-path', path])).status).toBe(0);
  });

  it('tell the same of paths', async () => {
    const { app, libb, file } = fixture;
    const nowhere = '/nix/store/00000000000000000000000000000000-nowhere';
    const comparable = (text: string): unknown =>
      JSON.parse(text, (key, value) =>
        key === 'registrationTime' ? typeof value : key === 'ultimate' ? 'either' : value,
      );
    for (const args of [
      [libb],
      ['-r', app],
      ['-S', app, file],
      ['--json-format', '2', '-rS', app],
      [nowhere, libb],
    ]) {
      const theirs = await nix(['path-info', '--json', ...args]);
      const [first, ...others] = Object.values(
        JSON.parse((await flk('path-info', '--json', ...args)) || '{}') as Record<string, unknown>,
      );
      expect([first, ...others].length, args.join(' ')).toBeGreaterThan(0);
      expect(comparable(await flk('path-info', '--json', ...args)), args.join(' ')).toEqual(
        comparable(theirs.stdout),
      );
    }
    for (const args of [['-r', app], ['-rsS', app, file], ['-s', libb, app], [`${libb}/lib/b`]])
      expect(await flk('path-info', ...args), args.join(' ')).toBe(
        (await nix(['path-info', ...args])).stdout,
      );
    expect((await fixture.world.flk(['store', 'path-info', nowhere])).status).toBe(1);
  });

  it('tell the same of what refers to what', async () => {
    const { app, libb, libc, libd } = fixture;
    expect(await flk('requisites', libb, libd)).toBe(await nixStore('-qR', libb, libd));
    for (const path of [app, libc])
      expect(lines(await flk('references', path))).toEqual(
        lines(await nixStore('-q', '--references', path)).sort(),
      );
    for (const [ours, theirs] of [
      [
        ['referrers', libc],
        ['-q', '--referrers', libc],
      ],
      [
        ['referrers', '-r', libb],
        ['-q', '--referrers-closure', libb],
      ],
    ] as const)
      expect(lines(await flk(...ours)).sort()).toEqual(lines(await nixStore(...theirs)).sort());
    const part = app.slice('/nix/store/'.length, '/nix/store/'.length + 32);
    expect(await flk('path-from-hash-part', part)).toBe(
      (await nix(['store', 'path-from-hash-part', part])).stdout,
    );
  });

  it('list and print what lies in a path', async () => {
    const { app, file } = fixture;
    const places = [app, `${app}/bin/app`, `${app}/binlink`, `${app}/empty/`];
    for (const place of places) {
      for (const options of [[], ['-lR'], ['-ld']])
        expect(await flk('ls', ...options, place), `${options.join(' ')} ${place}`).toBe(
          (await nix(['store', 'ls', ...options, place])).stdout,
        );
      for (const options of [['--json'], ['--json', '-R']])
        expect(JSON.parse(await flk('ls', ...options, place)), place).toEqual(
          JSON.parse((await nix(['store', 'ls', ...options, place])).stdout),
        );
    }
    for (const place of [`${app}/bin/app`, file, `${app}/nothing`, `${app}/we ird ü`])
      expect((await flkBytes(fixture.world, ['store', 'cat', place])).stdout.toString()).toBe(
        (await nix(['store', 'cat', place])).stdout,
      );
  });

  it('refuse the same places', async () => {
    const { app, world } = fixture;
    for (const [command, below] of [
      ['ls', 'binlink/app'],
      ['cat', 'binlink/app'],
      ['cat', 'b/lib/b'],
      ['cat', 'empty/link'],
      ['cat', 'outside'],
      ['cat', 'bin'],
      ['cat', ''],
      ['ls', 'none'],
      ['ls', 'bin/app/x'],
      ['ls', '../x'],
    ] as const) {
      const place = `${app}/${below}`;
      expect((await nix(['store', command, place])).status, place).not.toBe(0);
      const ours = await world.flk(['store', command, place]);
      expect(ours.status, place).not.toBe(0);
      expect(ours.stdout, place).toBe('');
    }
  });

  it('say why one path depends on another', async () => {
    const { app, libb, libc, libd } = fixture;
    for (const [from, to] of [
      [app, libc],
      [libb, libc],
      [app, libd],
      [libc, libc],
      [libb, libb],
    ] as const)
      for (const options of [[], ['--all'], ['--precise'], ['--all', '--precise']])
        expect(await flk('why-depends', ...options, from, to), `${options.join(' ')} ${from} ${to}`).toBe(
          plain((await nix(['why-depends', ...options, from, to])).stdout),
        );
    expect((await fixture.world.flk(['store', 'why-depends', libc, app])).status).toBe(1);
  });

  it('tell which packages two closures differ in', async () => {
    const { app, libb, libd, file } = fixture;
    const withoutSizes = (text: string): string =>
      plain(text)
        .replace(/: [+−-]?[0-9.]+ (?:B|kB|KiB|MiB)$/gm, ':')
        .replace(/, [+−-]?[0-9.]+ (?:B|kB|KiB|MiB)$/gm, '');
    for (const [before, after] of [
      [libb, app],
      [app, libb],
      [libd, file],
      [app, app],
    ] as const)
      expect(withoutSizes(await flk('diff', before, after))).toBe(
        withoutSizes((await nix(['store', 'diff-closures', before, after])).stdout),
      );
  });

  it('dump and restore the same', async () => {
    const { world, app, file } = fixture;
    for (const path of [app, file]) {
      const theirs = await nixBytes(`nix store dump-path ${path} > $OUT`);
      const ours = await flkBytes(world, ['store', 'dump-path', path]);
      expect(ours.stdout.equals(theirs.stdout), path).toBe(true);
      const place = join(temporaryFolder(), 'restored');
      expect((await flkBytes(world, ['store', 'restore', place], theirs.stdout)).status).toBe(0);
      const again = await nixBytes(`nix nar pack ${place} > $OUT`);
      expect(again.stdout.equals(theirs.stdout), path).toBe(true);
    }
  });

  it('put files at the same places', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'plain'), 'plain text\n');
    writeFileSync(join(folder, 'bytes'), Buffer.from([0, 255, 254, 10, 13]));
    writeFileSync(join(folder, 'program'), '#!/bin/sh\n');
    chmodSync(join(folder, 'program'), 0o755);
    symlinkSync('plain', join(folder, 'link'));
    mkdirSync(join(folder, 'empty'));
    for (const args of [
      ['plain'],
      ['program'],
      ['link'],
      ['empty'],
      ['--name', 'other', 'plain'],
      ['--mode', 'flat', 'plain'],
      ['--mode', 'flat', 'bytes'],
      ['--mode', 'text', 'plain'],
      ['--mode', 'text', 'bytes'],
      ['--mode', 'flat', '-n', 'x', '--dry-run', 'bytes'],
    ]) {
      const placed = args.map((arg, i) => (i === args.length - 1 ? join(folder, arg) : arg));
      const path = await flk('add', ...placed);
      expect(path, args.join(' ')).toBe((await nix(['store', 'add', ...placed])).stdout);
      if (args.includes('--dry-run')) continue;
      const info = async (text: string): Promise<unknown> => {
        const { ca, narHash, narSize, references } = Object.values(JSON.parse(text))[0] as Record<
          string,
          unknown
        >;
        return { ca, narHash, narSize, references };
      };
      expect(await info(await flk('path-info', '--json', path.trim()))).toEqual(
        await info((await nix(['path-info', '--json', '--json-format', '1', path.trim()])).stdout),
      );
    }
    // Its bytes make the address, so it is what a fetch of these bytes would leave: not executable, which Nix leaves it.
    const program = ['--mode', 'flat', join(folder, 'program')];
    expect(await flk('add', ...program)).toBe((await nix(['store', 'add', ...program])).stdout);
    for (const args of [
      ['--mode', 'flat', 'empty'],
      ['--mode', 'flat', 'link'],
      ['--mode', 'odd', 'plain'],
    ]) {
      const placed = [...args.slice(0, -1), join(folder, args.at(-1)!)];
      expect((await fixture.world.flk(['store', 'add', ...placed])).status).not.toBe(0);
      expect((await nix(['store', 'add', ...placed])).status).not.toBe(0);
    }
  });
});
