import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { exportScript, functionScript, physicalText, variablesIn } from '../../../src/build/develop.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { file, treeFrom } from '../../support/trees.ts';

const shells = ['sh', 'bash', 'dash', 'zsh'].filter((name) => spawnSync(name, ['-c', ':']).status === 0);

describe.each(shells)('text for %s', (shell) => {
  const run = (script: string, env: Readonly<Record<string, string>> = {}) =>
    spawnSync(shell, ['-c', script], { encoding: 'utf8', env: { PATH: process.env.PATH!, ...env } });

  it('exports any value as it is', () => {
    const value = fc.string({ unit: 'binary' }).map((text) => text.replaceAll('\0', ''));
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 30 }), (values) => {
        const names = values.map((_, at) => `X${at}`);
        const script = exportScript([], new Map(names.map((name, at) => [name, values[at]!])));
        const printed = run(`${script}exec ${process.execPath} -p 'JSON.stringify(process.env)'`);
        const env = JSON.parse(printed.stdout) as Record<string, string>;
        expect(names.map((name) => env[name])).toEqual(values);
      }),
      { numRuns: 10 },
    );
  });

  it.each([
    ['/usr/bin:/bin', "/a b:/it's:/usr/bin:/bin"],
    ["/a b:/it's", "/a b:/it's"],
    ["/a b:/it's:/bin", "/a b:/it's:/bin"],
    ["/bin:/a b:/it's", "/a b:/it's:/bin:/a b:/it's"],
    ['', "/a b:/it's"],
  ])('puts folders before PATH=%s once', (PATH, wanted) => {
    const script = exportScript(['/a b', "/it's"], new Map());
    expect(run(`PATH='${PATH.replace("'", `'\\''`)}'\n${script}echo "$PATH"`).stdout).toBe(`${wanted}\n`);
  });

  it('has a function for each phase, which goes on where the one before has gone', () => {
    const folder = temporaryFolder();
    const { stdout, stderr } = run(
      `cd ${folder}\n${functionScript()}unpackPhase='mkdir s; cd s'; configurePhase='X=1'; buildPhase='echo $X > f'
out=${folder}/outputs/out installPhase='cp f $out; pwd'
unpackPhase && configurePhase && buildPhase && installPhase && cat ${folder}/outputs/out
checkPhase='false; echo never'; cd ..; rm -r s; buildAll; echo $?; pwd`,
    );
    expect(stdout, stderr).toBe(`${folder}/s\n1\n1\n${folder}\n`);
  });
});

describe('variablesIn', () => {
  const environment = {
    name: 'x',
    path: [],
    variables: new Map([['A', 'b']]),
    hasToolchain: false,
    shellHook: undefined,
  };
  it('lets a package’s outputs go below the folder, and gives a shell none', () => {
    expect([...variablesIn({ ...environment, kind: 'package', outputs: ['out', 'dev'] }, '/w')]).toEqual([
      ['A', 'b'],
      ['out', '/w/outputs/out'],
      ['dev', '/w/outputs/dev'],
      ['NIX_BUILD_TOP', '/w'],
    ]);
    expect([...variablesIn({ ...environment, kind: 'shell', outputs: [] }, '/w')]).toEqual([['A', 'b']]);
  });
});

describe('physicalText', () => {
  let store: Store;
  beforeEach(async () => {
    store = await openStore(join(temporaryFolder(), 'store'));
    return () => store.close();
  });

  it('names valid paths as they lie on disk, and nothing else otherwise', async () => {
    const { path } = await store.addTree('x-1.0', treeFrom(file('x')));
    const there = store.physical(path);
    const other = `/nix/store/${'a'.repeat(32)}-x`;
    expect(physicalText(store, `a:${path}/bin:${path} ${other} /nix/store ${path}-2`)).toBe(
      `a:${there}/bin:${there} ${other} /nix/store ${path}-2`,
    );
  });
});
