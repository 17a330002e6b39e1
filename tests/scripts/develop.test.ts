import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CliWorld, flakeWorld } from '../support/cli.ts';

const program = join(import.meta.dirname, '../../bin/flk.js');
const canMount = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0;
const hasBash = spawnSync('bash', ['-c', ':']).status === 0;
const title = canMount ? 'flk develop' : 'flk develop (no namespaces on this machine)';

const awkward = `it's "quoted" $HOME \`x\` \\\\ end`;
const manifest = `packages:
  default: hello
  lib:
    toolchain: host
    installPhase: |
      mkdir -p $out/bin $out/include $out/lib/pkgconfig $out/share/aclocal
      echo found > $out/data
      printf '#!/bin/sh\\necho tool "$@" $PWD; cat %s/data\\n' $out > $out/bin/tool
      chmod +x $out/bin/tool
  other: { toolchain: host, installPhase: "mkdir -p $out/include" }
  hello:
    version: "1.0"
    toolchain: host
    src: { path: ., include: [word] }
    buildInputs: [lib, other]
    env: { CPATH: /own, WORD: ${JSON.stringify(awkward)}, TWO: "a\\nb" }
    configurePhase: "CONFIGURED=yes"
    buildPhase: "test $CONFIGURED = yes; tr a-z A-Z < word > built"
    checkPhase: "grep WORD built"
    installPhase: "cp built $out"
  fetched: { fetch: { url: "http://127.0.0.1:1/x", hash: sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= } }
devShells:
  default: { packages: [lib], env: { DATA: "{{#lib}}/data" }, shellHook: "echo hook; export HOOKED=$DATA" }
  from: { inputsFrom: [default], packages: [lib] }
  lib: { packages: [other] }
`;

const world = (): CliWorld => flakeWorld(manifest, { word: 'word\n' });

/** What a shell makes of text that `--print-env` printed. */
function evaluated(text: string, command: string, env: Readonly<Record<string, string>>) {
  return spawnSync('sh', ['-c', `eval "$1"; ${command}`, 'sh', text], { encoding: 'utf8', env, cwd: '/' });
}

describe.skipIf(!canMount)(title, () => {
  it('gives a shell what flake.yaml declares, and runs its hook', async () => {
    const { flk } = world();
    const { status, stdout, stderr } = await flk([
      'develop',
      '-c',
      'sh',
      '-c',
      'tool a; cat $HOOKED; exit 4',
    ]);
    expect(status, stderr).toBe(4);
    expect(stdout).toMatch(/^hook\ntool a \S+\nfound\nfound\n$/);
  });

  for (const [shell, hook] of [
    ['bash', 'greets'],
    ['zsh', 'greets'],
    ['fish', undefined],
  ] as const) {
    const place = spawnSync('sh', ['-c', `command -v ${shell}`], { encoding: 'utf8' }).stdout.trim();
    const missing = place === '' ? ` (skipped: no ${shell})` : '';
    it.skipIf(missing !== '')(`is a ${shell} for who uses that${missing}`, async () => {
      const made = flakeWorld(
        manifest.replace('echo hook;', 'echo hook; greet() { echo greets; };'),
        { word: 'word\n' },
        { SHELL: place },
      );
      // A real pipe: fish takes the socket that Node gives for a folder.
      const typed = (input: string, ...args: string[]) =>
        spawnSync(
          'sh',
          ['-c', 'printf "%s\\n" "$0" | exec "$@"', input, process.execPath, program, ...args],
          {
            cwd: made.folder,
            env: made.env,
            encoding: 'utf8',
          },
        );
      const input = `tool a; cat $HOOKED${hook === undefined ? '' : '; greet'}`;
      const { stdout, stderr, status } = typed(input, 'develop');
      expect(stdout, stderr).toMatch(/^hook\ntool a \S+\nfound\nfound\n(greets\n)?$/);
      expect(stdout.includes('greets')).toBe(hook !== undefined);
      expect(status).toBe(0);
      const packages = typed('tool b; echo $FLK_SHELL', 'shell', '.#lib');
      expect(packages.stdout, packages.stderr).toMatch(/^tool b \S+\nfound\nlib\n$/);
    });
  }

  const hasDirenv = spawnSync('direnv', ['version']).status === 0;
  it.skipIf(!hasDirenv)(`is what direnv loads${hasDirenv ? '' : ' (skipped: no direnv)'}`, async () => {
    const made = world();
    writeFileSync(
      join(made.folder, '.envrc'),
      `use_flk() { watch_file flake.yaml flake.lock; eval "$(${process.execPath} ${program} develop "$@" --print-env)"; }\nuse flk\n`,
    );
    const direnv = (...args: string[]) =>
      spawnSync('direnv', args, { cwd: made.folder, env: { ...made.env }, encoding: 'utf8' });
    expect(direnv('allow', '.').status).toBe(0);
    const { status, stdout, stderr } = direnv('exec', '.', 'sh', '-c', 'tool a; cat $HOOKED $DATA');
    expect(stdout, stderr).toMatch(/tool a \S+\nfound\nfound\nfound\n$/);
    expect(status).toBe(0);
    // What was loaded is undone, and done again, in each shell's own words.
    for (const [shell, word] of [
      ['bash', /export DATA=/],
      ['zsh', /export DATA=/],
      ['fish', /set -x -g '?DATA'? /],
    ] as const)
      expect(direnv('export', shell).stdout).toMatch(word);
  });

  it('gives a package what it is built with, and takes a shell before a package', async () => {
    const { flk, folder, env } = world();
    const show = 'for name; do eval "value=\\$$name"; printf "%s=%s\\n" $name "$value"; done';
    const names = ['out', 'NIX_BUILD_TOP', 'CPATH', 'LIBRARY_PATH', 'LD_RUN_PATH', 'PKG_CONFIG_PATH'];
    const more = ['CMAKE_PREFIX_PATH', 'ACLOCAL_PATH', 'WORD', 'TWO', 'SOURCE_DATE_EPOCH', 'PATH', 'HOME'];
    const { stdout, stderr } = await flk([
      'develop',
      '#hello',
      '-c',
      'sh',
      '-c',
      show,
      'sh',
      ...names,
      ...more,
    ]);
    const lib = /\/nix\/store\/[0-9a-z]{32}-lib\b/.exec(stdout)?.[0];
    const other = /\/nix\/store\/[0-9a-z]{32}-other\b/.exec(stdout)?.[0];
    expect(stdout, stderr).toBe(
      [
        `out=${folder}/outputs/out`,
        `NIX_BUILD_TOP=${folder}`,
        `CPATH=/own:${lib}/include:${other}/include`,
        `LIBRARY_PATH=${lib}/lib`,
        `LD_RUN_PATH=${lib}/lib`,
        `PKG_CONFIG_PATH=${lib}/lib/pkgconfig`,
        `CMAKE_PREFIX_PATH=${lib}:${other}`,
        `ACLOCAL_PATH=${lib}/share/aclocal`,
        `WORD=${awkward}`,
        'TWO=a\nb',
        'SOURCE_DATE_EPOCH=315532800',
        `PATH=${lib}/bin:${env.PATH}`,
        `HOME=${env.HOME}`,
        '',
      ].join('\n'),
    );
    const shell = await flk(['develop', '#lib', '-c', 'sh', '-c', 'echo $out no $CPATH']);
    expect(shell.stdout).toBe(`no ${other}/include\n`);
    const named = await flk(['develop', '#packages.lib', '-c', 'sh', '-c', 'echo $out']);
    expect(named.stdout).toBe(`${folder}/outputs/out\n`);
  });

  it('has the search paths that a build of the package has', async () => {
    const { flk } = world();
    const wanted = [
      'CPATH',
      'LIBRARY_PATH',
      'LD_RUN_PATH',
      'PKG_CONFIG_PATH',
      'CMAKE_PREFIX_PATH',
      'ACLOCAL_PATH',
    ];
    const chosen = (text: string): string[] =>
      text
        .split('\n')
        .filter((line) => wanted.includes(line.split('=')[0]!))
        .sort();
    const developed = await flk(['develop', '#hello', '-c', 'env']);
    const built = flakeWorld(manifest.replace('"cp built $out"', '"env; cp built $out"'), { word: 'word\n' });
    const { stderr } = await built.flk(['build', '#hello', '-L', '--no-link']);
    const seen = stderr.split('\n').flatMap((line) => /^hello-1\.0> (.*)$/.exec(line)?.[1] ?? []);
    expect(chosen(seen.join('\n'))).toEqual(chosen(developed.stdout));
    expect(chosen(developed.stdout)).toHaveLength(wanted.length);
  });

  it('has the inputs of other packages by inputsFrom, each once', async () => {
    const { flk } = world();
    const { stdout } = await flk([
      'develop',
      '#from',
      '-c',
      'sh',
      '-c',
      'echo $buildInputs; echo none $WORD',
    ]);
    expect(stdout).toMatch(/^\S+-lib \S+-other\nnone\n$/);
  });

  it('runs single phases in this folder, and fails as they do', async () => {
    const { flk, folder } = world();
    expect((await flk(['develop', '#hello', '--unpack'])).status).toBe(0);
    expect(readdirSync(join(folder, 'source'))).toEqual(['word']);
    const again = await flk(['develop', '#hello', '--phase', 'unpackPhase']);
    expect(again.status).toBe(1);
    expect(again.stderr).toContain('there is a ./source already');
    const byCommand = await flk(['develop', '#hello', '-c', 'unpackPhase']);
    expect([byCommand.status, byCommand.stderr]).toEqual([1, expect.stringContaining('./source already')]);
    const unknown = await flk(['develop', '#hello', '-c', 'nosuch']);
    expect([unknown.status, unknown.stderr]).toEqual([127, expect.stringMatching(/no program nosuch$/m)]);
    const unconfigured = await flk(['develop', '#hello', '--build'], { cwd: join(folder, 'source') });
    expect(unconfigured.status).not.toBe(0);
  });

  it.skipIf(!hasBash)('has the phases as functions in a shell, and all of them as one', async () => {
    const { flk, folder } = world();
    const input = [
      'buildAll && cat outputs/out && rm -rf source; pwd',
      'unpackPhase; pwd; configurePhase; buildPhase; cat built; buildAll; echo status $?',
      'echo "[$BASH_ENV]"; exit 6',
      '',
    ].join('\n');
    const env = { SHELL: 'bash', BASH_ENV: '/none' };
    const { status, stdout } = await flk(['develop', '#hello'], { input, env });
    const source = `${folder}/source`;
    expect({ status, stdout }).toEqual({
      status: 6,
      stdout: `WORD\nWORD\n${folder}\n${source}\nWORD\nWORD\nstatus 0\n[/none]\n`,
    });
  });

  it('--print-env: text for a shell without /nix/store, with launchers where programs need it', async () => {
    const { flk, env, folder } = world();
    const { stdout, stderr, status } = await flk(['develop', '--print-env']);
    expect(status, stderr).toBe(0);
    expect(stdout).not.toMatch(/[^\w]\/nix\/store/);
    const shell = evaluated(stdout, 'tool a; cat "$DATA" "$HOOKED"; echo "$PATH"', { PATH: env.PATH! });
    expect(shell.stderr).toBe('');
    const [hook, tool, ...data] = shell.stdout.trimEnd().split('\n');
    expect([hook, tool, ...data.slice(0, 3)]).toEqual(['hook', 'tool a /', 'found', 'found', 'found']);
    expect(data[3]).toMatch(new RegExp(`^${env.XDG_STATE_HOME}/flk/environments/\\S+:${env.PATH}$`));
    // Twice changes nothing more.
    const twice = evaluated(`${stdout}\n${stdout}`, 'echo "$PATH"', { PATH: env.PATH! });
    expect(twice.stdout.trimEnd().split('\n').at(-1)).toBe(data[3]);

    const package_ = await flk(['develop', '#hello', '--print-env']);
    const values = evaluated(package_.stdout, 'printf "%s|" "$WORD" "$TWO" "$out"', { PATH: env.PATH! });
    expect(values.stdout).toBe(`${awkward}|a\nb|${folder}/outputs/out|`);
  });

  it('--print-env keeps what it names until the folder has gone', async () => {
    const one = world();
    const environments = join(one.env.XDG_STATE_HOME!, 'flk/environments');
    const sub = join(one.home, 'other');
    mkdirSync(sub);
    await one.flk(['develop', '--print-env']);
    const [key] = readdirSync(environments);
    const link = join(environments, key!, 'env');
    expect(readlinkSync(link)).toMatch(/-default-env$/);
    const roots = join(one.env.XDG_DATA_HOME!, 'flk/nix/var/nix/gcroots/auto');
    expect(readdirSync(roots).map((name) => readlinkSync(join(roots, name)))).toContain(link);
    const cloned = spawnSync('cp', ['-R', one.folder, join(sub, 'copy')]);
    expect(cloned.status).toBe(0);
    await one.flk(['develop', '--print-env'], { cwd: join(sub, 'copy') });
    expect(readdirSync(environments)).toHaveLength(2);
    rmSync(sub, { recursive: true });
    await one.flk(['develop', '--print-env']);
    expect(readdirSync(environments)).toEqual([key]);
    expect(existsSync(link)).toBe(true);
  });

  it('--print-env --json has the shape of nix print-dev-env --json', async () => {
    const { flk } = world();
    const { stdout } = await flk(['develop', '#hello', '--print-env', '--json']);
    const { variables, bashFunctions } = JSON.parse(stdout) as Record<string, Record<string, unknown>>;
    expect(variables?.TWO).toEqual({ type: 'exported', value: 'a\nb' });
    expect(Object.keys(bashFunctions ?? {})).toContain('buildPhase');
  });

  it('with --ignore-env has what a build has, and not more', async () => {
    const { flk } = flakeWorld(manifest, { word: 'word\n' }, { MINE: 'x' });
    const { stdout } = await flk(['develop', '#hello', '-i', '-c', '/usr/bin/env']);
    expect(stdout).not.toContain('MINE=');
    expect(stdout).toMatch(/^PATH=\/nix\/store\/[^:]*-lib\/bin:\/bin:\/usr\/bin:\/sbin:\/usr\/sbin$/m);
    expect(stdout).toMatch(/^TZ=UTC$/m);
  });

  it.each([
    [['#hello', '--phase', 'bild'], 'FLK_USAGE', 'there is no phase bild'],
    [['--build'], 'FLK_PACKAGE_INVALID', 'default has no buildPhase'],
    [['#hello', '--build', '-c', 'x'], 'FLK_USAGE', 'exclude each other'],
    [['#hello', '--json'], 'FLK_USAGE', '--json says how to print'],
    [['#fetched'], 'FLK_PACKAGE_INVALID', 'fetched is not built by phases'],
    [['#devShells.nope'], 'FLK_PACKAGE_UNKNOWN', 'the flake has no shell nope'],
    [['#nope'], 'FLK_PACKAGE_UNKNOWN', 'nope'],
  ])('refuses %j', async (args, code, message) => {
    const { status, stderr, stdout } = await world().flk(['develop', ...args]);
    expect(status).not.toBe(0);
    expect(stderr + stdout).toContain(code);
    expect(stderr).toContain(message);
  });
});
