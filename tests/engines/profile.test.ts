/** Environments of profiles beside those of real Nix: equal packages make one store path, and each reads the other's history. */
import { mkdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseStorePath, type StorePath } from '../../src/formats/store-path.ts';
import { readGenerations } from '../../src/store/generations.ts';
import {
  buildEnvironment,
  nameOfElement,
  type ProfileElement,
  readManifest,
} from '../../src/store/profile.ts';
import { openStore, type Store } from '../../src/store/store.ts';
import { walkPath } from '../../src/store/tree-files.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';

/** Lines `PATH`, `PATH -> TARGET`, below a folder. */
function make(folder: string, lines: readonly string[]): string {
  for (const line of lines) {
    const [path = '', target] = line.split(' -> ');
    const place = join(folder, path);
    mkdirSync(dirname(place), { recursive: true });
    if (target === undefined) writeFileSync(place, path);
    else symlinkSync(target, place);
  }
  return folder;
}

const packages: Readonly<Record<string, readonly string[]>> = {
  'hello-2.12': [
    'bin/hello',
    'share/man/man1/hello.1',
    'share/info/dir',
    'lib/libhello.so',
    '.hidden',
    'log',
  ],
  'world-1.0': ['bin/world', 'share/man/man1/world.1', 'share/world/data', 'nix-support/x'],
  'other-3': ['bin/hello', 'bin/away -> /nowhere/at/all', 'lib64 -> lib', 'lib/libother.so', 'manifest.json'],
  unicode: ['share/ä ö/ü', 'bin/z -> ../share', 'etc/x'],
};

describe.skipIf(!nixAvailable())(`profiles of Nix and of flk ${nixReason}`, () => {
  it('are one store path, whatever is in them, and each reads the other’s', async () => {
    const store: Store = await openStore(join(temporaryFolder(), 'root'));
    const sources = temporaryFolder();
    const paths = new Map<string, StorePath>();
    for (const [name, lines] of Object.entries(packages)) {
      const folder = make(join(sources, name), lines);
      const { path } = await store.addTree(name, walkPath(folder));
      expect((await nix(['store', 'add', '--name', name, folder])).stdout.trim()).toBe(path);
      paths.set(name, path);
    }
    const profile = join(temporaryFolder(), 'profile');
    const manifest = new Map<string, ProfileElement>();
    for (const [i, [name, path]] of [...paths].entries()) {
      const priority = name.startsWith('other') ? 4 : 5;
      const added = await nix(['profile', 'add', '--profile', profile, '--priority', String(priority), path]);
      expect(added.status, added.stderr).toBe(0);
      const element: ProfileElement = { active: true, priority, storePaths: [path] };
      manifest.set(nameOfElement(element), element);
      const theirs = parseStorePath(`/nix/store/${basename(readlinkSync(`${profile}-${i + 1}-link`))}`);
      const ours = await buildEnvironment(store, manifest);
      expect(ours, name).toBe(theirs);
    }
    const { all, current } = readGenerations(profile);
    expect(all.map(({ number }) => number)).toEqual([1, 2, 3, 4]);
    expect(await readManifest(store, current!.path)).toEqual(new Map([...manifest].sort()));
  });
});
