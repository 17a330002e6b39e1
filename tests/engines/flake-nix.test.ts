/* biome-ignore-all lint/suspicious/noTemplateCurlyInString: Nix has such holes in its strings too */
/** Texts of flake.nix that Nix takes or refuses, and what it locks of them. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';
import { refToAttributes } from '../../src/flake/flake-ref.ts';
import type { InputDeclaration } from '../../src/flake/manifest-model.ts';
import { type NixFlake, parseFlakeNix } from '../../src/flake/nix-inputs.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

const taken: readonly string[] = [
  '{ outputs = _: { }; }',
  '({ outputs = _: { }; })',
  'rec { description = "d"; outputs = _: { }; }',
  '{ outputs = import; }',
  "{ description = ''\n  a\n  b\n''; outputs = _: { }; }",
  '{ description = http://a.b; outputs = _: { }; }',
  '{ description = ("a"); outputs = _: { }; }',
  "{ description = ''${\"a\"}''; outputs = _: { }; }",
  '{ ${"description"} = "x"; outputs = _: { }; }',
  '{ inputs = { }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.a.url = "./sub"; outputs = _: { }; }',
  '{ inputs.a.url = "path:sub"; outputs = _: { }; }',
  '{ inputs.a.url = ./sub; outputs = _: { }; }',
  '{ inputs.a.url = ./x/../sub; outputs = _: { }; }',
  '{ inputs.a = { url = ./.; flake = false; }; outputs = _: { }; }',
  '{ inputs.a.url = sub/deep; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; flake = false; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; dir = "deep"; }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub?dir=deep"; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; lastModified = 1; flake = false; }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b.follows = "a"; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.a.inputs.x.follows = ""; outputs = _: { }; }',
  '{ inputs.b.follows = ""; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b.follows = "/a/"; outputs = _: { }; }',
  '{ inputs.a.url = "path:./withx"; inputs.a.inputs.x.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.a.url = "path:./withx"; inputs.b.url = "path:./sub"; inputs.a.inputs.x.follows = "b"; outputs = _: { }; }',
  '{ inputs = { a.url = "path:./sub"; }; inputs.a.flake = false; inputs.b = { url = "path:./sub"; }; outputs = _: { }; }',
  '{ inputs."a".url = "path:./sub"; outputs = _: { }; }',
  '{ inputs."a b".url = "path:./sub"; outputs = _: { }; }',
  '{ inputs."a.b".url = "path:./sub"; outputs = _: { }; }',
  '{ inputs."".url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.self.submodules = true; outputs = _: { }; }',
  '{ inputs.self = { }; outputs = _: { }; }',
  '{ outputs = { self }: { }; }',
  '{ inputs.a.url = "path:./sub"; outputs = { self, a }: { }; }',
  '{ inputs.a.url = "path:./sub"; outputs = inputs@{ self, ... }: { }; }',
  '{ outputs = x: with x; b; }',
  '{ nixConfig.a = "b"; outputs = _: { }; }',
  '{ nixConfig = { bash-prompt = "x"; sandbox = true; n = 1; l = [ "a" ]; }; outputs = _: { }; }',
  '{ nixConfig.a = ./sub; outputs = _: { }; }',
  '{ nixConfig.a = [ ]; outputs = _: { }; }',
  'rec { description = "path:./sub"; inputs.a.url = description; outputs = _: { }; }',
  'rec { description = "x"; nixConfig.a = [ description ]; outputs = _: { }; }',
  '{ inputs = rec { aa.url = "path:./sub"; bb = aa; }; outputs = _: { }; }',
  'rec { description = "path:./sub"; inputs.a = { url = description; }; inputs.b = rec { url = description; }; outputs = _: { }; }',
  '{\r\n  description = "a\r\nb";\r\n  outputs = _: { };\r\n}\r\n',
];

const refused: readonly string[] = [
  'x: { }',
  'let a = 1; in { outputs = _: { }; }',
  'with { }; { outputs = _: { }; }',
  '{ description = "a"; }',
  '{ }',
  '{ outputs = _: { }; foo = 1; }',
  '{ outputs = { }; }',
  '{ outputs = builtins.trace; }',
  '{ outputs = let f = _: { }; in f; }',
  '{ inherit map; outputs = map; }',
  'rec { inherit import; outputs = import; }',
  '{ description = 1; outputs = _: { }; }',
  '{ description = "a" + "b"; outputs = _: { }; }',
  '{ description = "${"a"}"; outputs = _: { }; }',
  '{ description = ./a; outputs = _: { }; }',
  '{ inputs = [ ]; outputs = _: { }; }',
  '{ inputs = let a = 1; in { }; outputs = _: { }; }',
  '{ inputs = x: { }; outputs = _: { }; }',
  '{ inputs.a = "path:./sub"; outputs = _: { }; }',
  '{ inputs.a.url = /tmp; outputs = _: { }; }',
  '{ inputs.a.url = ~/sub; outputs = _: { }; }',
  '{ outputs = _: ~/sub; }',
  '{ inputs.a.url = ./${"sub"}; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; flake = "false"; }; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; flake = null; }; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; flake = !true; }; outputs = _: { }; }',
  '{ inputs.a.url = 1; outputs = _: { }; }',
  '{ inputs.a.url = ""; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub#x"; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = ./sub; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; url = "path:./sub"; path = "./sub"; }; outputs = _: { }; }',
  '{ inputs.a = { path = "./sub"; }; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; dir = "deep"; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; x = [ ]; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; x = "y"; }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b.follows = "a b"; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b.follows = 1; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b = { url = "path:./sub"; follows = "a"; }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.b = { type = "path"; path = "./sub"; follows = "a"; }; outputs = _: { }; }',
  '{ inputs.a.url = "path:./withx"; inputs.a.inputs.self.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.a.url = "path:./sub"; inputs.a.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.a = "x"; inputs.a.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.${"a" + "b"}.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.self.foo = true; outputs = _: { }; }',
  '{ inputs.self.url = "path:./sub"; outputs = _: { }; }',
  '{ inputs.self = "x"; outputs = _: { }; }',
  '{ outputs = { self, _nope }: { }; }',
  "{ outputs = { self, a' }: { }; }",
  '{ inputs._a.url = "path:./sub"; outputs = { self, _a }: { }; }',
  '{ outputs = _: { a = b; }; }',
  '{ nixConfig.a.b = "c"; outputs = _: { }; }',
  '{ nixConfig.a = [ 1 ]; outputs = _: { }; }',
  '{ nixConfig.a = 1.5; outputs = _: { }; }',
  '{ nixConfig.a = null; outputs = _: { }; }',
  '{ nixConfig.a = -1; outputs = _: { }; }',
  '{ nixConfig.a = [ "a" ] ++ [ ]; outputs = _: { }; }',
  '{ nixConfig.a = [ ("a" + "b") ]; outputs = _: { }; }',
  '{ nixConfig.a = [ ./sub ]; outputs = _: { }; }',
  '{ nixConfig = [ ]; outputs = _: { }; }',
  '{ inputs = rec { bb = aa; aa.url = "path:./sub"; }; outputs = _: { }; }',
  'rec { inputs.a.url = "path:./sub"; inputs.b.url = inputs.a.url; outputs = _: { }; }',
  '{ inputs.a.url = if true then "path:./sub" else "x"; outputs = _: { }; }',
  '{ inputs = let { body = { }; }; outputs = _: { }; }',
  '{ inputs = builtins; outputs = _: { }; }',
  'rec { inputs.a = { url = "path:./sub"; flake = description; }; description = "x"; outputs = _: { }; }',
  '{ inputs = { inherit ({ a = { url = "path:./sub"; }; }) a; }; outputs = _: { }; }',
  '{ inputs.a = { type = "path"; path = "./sub"; lastModified = -1; }; outputs = _: { }; }',
  '{ inputs.a = { url = "path:./sub"; inputs = [ ]; }; outputs = _: { }; }',
  '\ufeff{ outputs = _: { }; }',
  '{ description = __curPos; outputs = _: { }; }',
];

function read(text: string): NixFlake | undefined {
  try {
    return parseFlakeNix({ path: 'flake.nix', text });
  } catch (error) {
    if (error instanceof FlkError && error.code === 'FLK_MANIFEST_INVALID') return undefined;
    throw error;
  }
}

const empty = '{ outputs = _: { }; }';

/** Root inputs of the lock that Nix writes: originals, or paths for those that follow. Undefined when it refuses. */
async function lockedByNix(folder: string, text: string): Promise<Record<string, unknown> | undefined> {
  for (const [dir, flake] of [
    ['', text],
    ['sub', empty],
    ['sub/deep', empty],
    ['withx', '{ inputs.x.url = "path:../sub"; outputs = _: { }; }'],
  ] as const) {
    mkdirSync(join(folder, dir), { recursive: true });
    writeFileSync(join(folder, dir, 'flake.nix'), flake);
  }
  const { status, stderr } = await nix(['flake', 'lock', `path:${folder}`]);
  if (status !== 0) {
    expect(stderr).toContain('error:');
    return undefined;
  }
  let lock: { nodes: Record<string, { inputs?: Record<string, string | string[]>; original?: unknown }> };
  try {
    lock = JSON.parse(readFileSync(join(folder, 'flake.lock'), 'utf8')) as typeof lock;
  } catch {
    // Without inputs Nix writes no lock.
    return {};
  }
  return Object.fromEntries(
    Object.entries(lock.nodes.root?.inputs ?? {}).map(([name, input]) => [
      name,
      typeof input === 'string' ? lock.nodes[input]?.original : input,
    ]),
  );
}

const asLocked = ({ ref, follows }: InputDeclaration): unknown => (ref ? refToAttributes(ref) : follows);

describe.skipIf(!nixAvailable())(`flake.nix ${nixReason}`, () => {
  it.concurrent.each(taken)('has the same inputs: %s', async (text) => {
    const inputs = await lockedByNix(temporaryFolder(), text);
    expect(inputs).toBeDefined();
    const ours = [...(read(text)?.inputs ?? [])].map(([name, input]) => [name, asLocked(input)]);
    expect(Object.fromEntries(ours)).toEqual(inputs);
  });

  it.concurrent.each(refused)('is refused: %s', async (text) => {
    expect(await lockedByNix(temporaryFolder(), text)).toBeUndefined();
    expect(read(text)).toBeUndefined();
  });
});
