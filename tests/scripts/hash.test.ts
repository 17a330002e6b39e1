import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cliWorld } from '../support/cli.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';

/** SHA-256 of nothing. */
const empty = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

function worldWithFiles() {
  const world = cliWorld();
  mkdirSync(join(world.folder, 'folder'));
  writeFileSync(join(world.folder, 'folder/program'), '#!/bin/sh\n');
  chmodSync(join(world.folder, 'folder/program'), 0o755);
  symlinkSync('program', join(world.folder, 'folder/link'));
  writeFileSync(join(world.folder, 'empty'), '');
  symlinkSync('folder', join(world.folder, 'link'));
  return world;
}

describe('flk hash', () => {
  it('writes a hash in another notation, several at once, and as JSON', async () => {
    const { flk } = cliWorld();
    const { stdout } = await flk(['hash', 'convert', `sha256:${empty}`, `sha256:${empty}`]);
    expect(stdout).toBe('sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n'.repeat(2));
    const json = await flk(['hash', 'convert', '--json', '--to', 'nix32', '--hash-algo', 'sha256', empty]);
    expect(JSON.parse(json.stdout)).toEqual([
      { from: empty, hash: '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73' },
    ]);
  });

  it('refuses a hash in another notation than --from, a folder as file, and a mode that is none', async () => {
    const { flk } = worldWithFiles();
    const wrong = await flk(['hash', 'convert', '--from', 'sri', `sha256:${empty}`]);
    expect(wrong.stderr).toContain('FLK_HASH_INVALID');
    const folder = await flk(['hash', 'file', 'folder']);
    expect(folder.stderr).toContain('hint: flk hash path');
    expect((await flk(['hash', 'path', '--mode', 'git', 'folder'])).stderr).toContain('FLK_USAGE');
    expect((await flk(['hash', 'path', 'nowhere'])).stderr).toContain('FLK_FILE_UNREADABLE');
    expect((await flk(['hash', 'files', 'empty'])).status).toBe(2);
    expect((await flk(['hash', 'path'])).status).toBe(2);
  });

  it.skipIf(!nixAvailable())(`hashes paths and files as nix hash does ${nixReason}`, async () => {
    const { flk, folder } = worldWithFiles();
    for (const args of [
      ['path', 'folder', 'empty'],
      ['path', 'link'],
      ['path', '--format', 'base16', 'folder'],
      ['path', '--mode', 'flat', 'empty'],
      ['file', 'folder/link'],
    ]) {
      const expected = (await nix(['hash', ...args], { cwd: folder })).stdout;
      expect(expected).not.toBe('');
      expect((await flk(['hash', ...args])).stdout).toBe(expected);
    }
    const sha512 = await flk(['hash', 'file', '--hash-algo', 'sha512', 'empty']);
    expect(sha512.stdout).toBe(
      (await nix(['hash', 'file', '--type', 'sha512', 'empty'], { cwd: folder })).stdout,
    );
  });
});
