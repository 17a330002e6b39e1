/** What people meet: the place of a fault and the hint that mends it, and an answer to every --json. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { temporaryFolder } from '../support/temp.ts';

const library = temporaryFolder();
writeFileSync(join(library, 'flake.nix'), '{ outputs = _: { }; }\n');
mkdirSync(join(library, 'empty'));
writeFileSync(join(library, 'empty/x'), '');

/** What `flk lock` says about a manifest, without the code's frame. */
async function said(name: 'flake.nix' | 'flake.yaml', text: string): Promise<string> {
  const world = cliWorld({ NIX_CONFIG: 'flake-registry = http://127.0.0.1:1/none.json' });
  writeFileSync(join(world.folder, name), text);
  const { status, stderr } = await world.flk(['lock']);
  expect(status).not.toBe(0);
  expect(existsSync(join(world.folder, 'flake.lock'))).toBe(false);
  return stderr;
}

const outputs = '  outputs = _: { };\n}\n';

describe('a fault in flake.nix', () => {
  it.each([
    ['before the next attribute', `{\n  inputs.a.url = "path:${library}"\n${outputs}`, 'flake.nix:3:11'],
    ['before }', `{\n  inputs = { a.url = "path:${library}"\n  };\n${outputs}`, 'flake.nix:3:3'],
  ])('names the line that lacks its ; %s', async (_, text, place) => {
    const error = await said('flake.nix', text);
    expect(error).toContain(place);
    expect(error).toContain('= is a ; missing at the end of line 2?');
  });

  it('blames no line end where the line goes on', async () => {
    expect(await said('flake.nix', `{\n  description = "a" = "b";\n${outputs}`)).not.toContain('missing at');
  });

  it('in follows is told with its place', async () => {
    const missing = await said('flake.nix', `{\n  inputs.a.follows = "none";\n${outputs}`);
    expect(missing).toContain('FLK_FOLLOWS_MISSING');
    expect(missing).toMatch(/trail +flake\.nix:2:10 → a\n/);
    expect(missing).toContain('hint: let it follow an input that there is');
    const circle = await said(
      'flake.nix',
      `{\n  inputs.a.follows = "b";\n  inputs.b.follows = "a";\n${outputs}`,
    );
    expect(circle).toContain('FLK_FOLLOWS_CYCLE');
    expect(circle).toMatch(/trail +flake\.nix:2:10 → a → b → a\n/);
    expect(circle).toContain('hint: give one of them a url of its own');
  });

  it('about an input without a manifest is mended in Nix', async () => {
    expect(await said('flake.nix', `{\n  inputs.a.url = "path:${library}?dir=empty";\n${outputs}`)).toContain(
      'hint: if only its files are wanted: inputs.a.flake = false;',
    );
  });

  it('about a name says who was to explain it', async () => {
    const error = await said('flake.nix', '{\n  outputs = { self, nixpkgs }: { };\n}\n');
    expect(error).toContain('FLK_NETWORK');
    expect(error).toContain('hint: the global registry says what flake:nixpkgs means');
  });
});

describe('a narHash that does not fit', () => {
  const wrong = `sha256-${'A'.repeat(43)}=`;

  it('is mended in the manifest where that promises it', async () => {
    const error = await said(
      'flake.yaml',
      `inputs:\n  a: "path:${library}?narHash=${encodeURIComponent(wrong)}"\n`,
    );
    expect(error).toContain('FLK_NAR_HASH_MISMATCH');
    expect(error).toContain('hint: the manifest asks for this narHash: correct it in input a');
  });

  it('in a lock is told with the input that has it', async () => {
    const world = cliWorld();
    writeFileSync(join(world.folder, 'flake.yaml'), `inputs:\n  a: "path:${library}"\n`);
    await world.flk(['lock']);
    const path = join(world.folder, 'flake.lock');
    writeFileSync(path, readFileSync(path, 'utf8').replace(/sha256-[^"]+/, wrong));
    const { status, stderr } = await world.flk(['archive']);
    expect(status).toBe(4);
    expect(stderr).toMatch(/trail +a\n/);
    expect(stderr).toContain('flk update a;');
  });
});

describe('a command of flk hash', () => {
  it('that there is not is named as such', async () => {
    expect((await cliWorld().flk(['hash', 'foo'])).stderr).toContain('there is no flk hash foo');
    expect((await cliWorld().flk(['hash', 'path'])).stderr).toContain('flk hash path needs a path');
  });
});

describe('flk registry add --json', () => {
  it('names the file that was changed', async () => {
    const world = cliWorld();
    const file = join(world.folder, 'registry.json');
    const { stdout } = await world.flk(['registry', 'add', '--json', '--registry', file, 'a', 'github:b/c']);
    expect(JSON.parse(stdout)).toEqual({ registry: file });
    expect(readFileSync(file, 'utf8')).toContain('"repo": "c"');
  });
});
