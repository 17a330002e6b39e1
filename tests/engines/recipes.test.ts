/** What flk makes of each recipe's commits is what Nix makes of a checkout of them, and what isomorphic-git reads in them. */
import fs from 'node:fs';
import { join } from 'node:path';
import isomorphic from 'isomorphic-git';
import { describe, expect, test } from 'vitest';
import { silent } from '../../src/base/events.ts';
import type { Rev } from '../../src/flake/flake-ref.ts';
import { NarHasher, type TreeSink } from '../../src/formats/nar.ts';
import { Sources } from '../../src/sources/source.ts';
import { canonical, loadRecipes, writeFiles } from '../../test-repos/build.mjs';
import { gitServer } from '../support/git-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { buildRepositories } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

const recipes = [...(await loadRecipes())];

/** Every commit of a recipe that its refs reach, as flk fetches it by its id over HTTP: commit in the recipe → NAR hash. */
async function fetchCommits(
  name: string,
): Promise<Map<string, { rev: string; gitdir: string; narHash: string }>> {
  const folder = temporaryFolder();
  const built = buildRepositories(folder, [name]).get(name)!;
  const server = await gitServer(folder);
  const source = new Sources({ cacheFolder: temporaryFolder(), reporter: silent });
  const found = new Map<string, { rev: string; gitdir: string; narHash: string }>();
  for (const [id, rev] of built.revs) {
    // What a moved branch has left behind is not in the repository.
    if (!fs.existsSync(join(built.path, 'objects', rev.slice(0, 2), rev.slice(2)))) continue;
    const { tree } = await source.fetch({ type: 'git', url: `${server.base}/${name}`, rev: rev as Rev });
    found.set(id, { rev, gitdir: built.path, narHash: tree.narHash });
  }
  return found;
}

/** Walks a tree as isomorphic-git reads it. Undefined where a name is not UTF-8: there it gives another name. */
async function hashByIsomorphic(gitdir: string, rev: string): Promise<string | undefined> {
  let lossy = false;
  const walk = async (oid: string, sink: TreeSink): Promise<void> => {
    const { tree } = await isomorphic.readTree({ fs, gitdir, oid });
    const entries = tree.map((entry) => ({ ...entry, name: Buffer.from(entry.path) }));
    sink.directory();
    for (const entry of entries.sort((a, b) => Buffer.compare(a.name, b.name))) {
      lossy ||= entry.path.includes('\ufffd');
      sink.entry(entry.name);
      if (entry.type === 'tree') await walk(entry.oid, sink);
      else if (entry.type === 'commit') {
        sink.directory();
        sink.endDirectory();
      } else {
        const { blob } = await isomorphic.readBlob({ fs, gitdir, oid: entry.oid });
        const data = Buffer.from(blob);
        if (entry.mode === '120000') sink.symlink(data);
        else {
          sink.file(data.length, entry.mode === '100755');
          sink.data(data);
          sink.endFile();
        }
      }
    }
    sink.endDirectory();
  };
  const hasher = new NarHasher();
  await walk(rev, hasher);
  return lossy ? undefined : hasher.digest().narHash;
}

describe.each(recipes)('the recipe %s', (name, maker) => {
  test('hashes as isomorphic-git reads it', async () => {
    for (const [id, { rev, gitdir, narHash }] of await fetchCommits(name)) {
      const second = await hashByIsomorphic(gitdir, rev);
      expect({ id, narHash: second ?? 'names that are not UTF-8' }).toEqual({
        id,
        narHash: name === 'odd-files' ? 'names that are not UTF-8' : narHash,
      });
    }
  });

  test.skipIf(!nixAvailable())(`hashes as Nix hashes a checkout ${nixReason}`, async () => {
    const checkouts = temporaryFolder();
    const commits = await fetchCommits(name);
    const paths = [...commits.keys()].map((id) => {
      const path = join(checkouts, id);
      writeFiles(canonical(maker), id, path);
      return path;
    });
    const { stdout, stderr } = await nix(['hash', 'path', ...paths]);
    expect(stderr).toBe('');
    expect(stdout.trim().split('\n')).toEqual([...commits.values()].map(({ narHash }) => narHash));
  });
});
