/** Trees on their way to the disk: what is synced when. That it lasts through a power cut is the system's to keep. */
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { restoreTree } from '../../../src/store/tree-files.ts';
import { syncTrees, TreeSync } from '../../../src/store/tree-sync.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';
import { directory, file, symlink, treeFrom } from '../../support/trees.ts';

const mebibyte = 1024 * 1024;
const path = process.env.PATH;
afterEach(() => {
  process.env.PATH = path;
});

/** A `sync` that notes what it is asked for and does as it is told; gives what it was asked for so far. */
function syncProgram(script: string): () => string[] {
  const folder = temporaryFolder();
  const notes = join(folder, 'notes');
  writeFileSync(join(folder, 'sync'), `#!/bin/sh\necho "$@" >> ${notes}\n${script}\n`);
  chmodSync(join(folder, 'sync'), 0o755);
  process.env.PATH = `${folder}:${path}`;
  return () => (existsSync(notes) ? readFileSync(notes, 'utf8').trim().split('\n') : []);
}

const children = (): number =>
  readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').filter(Boolean).length;

async function written(folder: string, name: string, files: number): Promise<string> {
  const entries = Array.from({ length: files }, (_, i) => [`file-${i}`, file(`${i}`)]);
  const tree = directory({ folder: directory(Object.fromEntries(entries)), link: symlink('nowhere') });
  await treeFrom(tree).walk(restoreTree(join(folder, name)));
  return join(folder, name);
}

describe('syncing trees', () => {
  it('syncs few nodes one by one, many by the file system', async () => {
    const asked = syncProgram('exec /bin/sync "$@"');
    const folder = temporaryFolder();
    const [few, many] = [await written(folder, 'few', 3), await written(folder, 'many', 100)];
    await syncTrees([]);
    await syncTrees([few]);
    expect(asked()).toEqual([]);
    await syncTrees([few, many]);
    expect(asked()).toEqual([`-f ${folder}`]);
  });

  it('syncs each node where the program can not, and says what is not there', async () => {
    const folder = temporaryFolder();
    const many = await written(folder, 'many', 100);
    syncProgram('exit 1');
    await syncTrees([many]);
    process.env.PATH = '/nonexistent';
    await syncTrees([many]);
    await expect(syncTrees([join(folder, 'nothing')])).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
  });
});

describe('syncing early', () => {
  it('has at hand what syncs a large tree before it is written, and nothing for a small one', async () => {
    const sync = new TreeSync(temporaryFolder());
    sync.expects(mebibyte);
    expect(children()).toBe(0);
    sync.expects(40 * mebibyte);
    sync.expects(40 * mebibyte);
    expect(children()).toBe(1);
    sync.close();
    await expect.poll(children).toBe(0);
  });

  it('begins once much was written, again when that is done, never twice at a time', async () => {
    const folder = temporaryFolder();
    const gate = join(folder, 'gate');
    const asked = syncProgram(`until [ -e ${gate} ]; do sleep 0.02; done`);
    const few = await written(folder, 'few', 3);
    const early = new TreeSync(folder);
    early.wrote(31 * mebibyte);
    early.wrote(2 * mebibyte);
    early.wrote(100 * mebibyte);
    const done = early.sync([few]);
    await expect.poll(asked).toEqual([`-f ${folder}`]);
    writeFileSync(gate, '');
    await done;
    early.wrote(1);
    await early.sync([few]);
    expect(asked()).toHaveLength(2);
    early.wrote(31 * mebibyte);
    await early.sync([few]);
    expect(asked()).toHaveLength(2);
  });

  it('does without where no program can be started', async () => {
    const asked = syncProgram('exit 0');
    // No word of a command line can hold this.
    const early = new TreeSync('/a\0b');
    early.wrote(40 * mebibyte);
    await early.sync([await written(temporaryFolder(), 'many', 100)]);
    expect(asked()).toEqual([]);
  });

  it('asks each node from then on where it once failed: who comes later is not told why', async () => {
    const folder = temporaryFolder();
    const failed = join(folder, 'failed');
    // Fails the first time alone.
    const asked = syncProgram(`[ -e ${failed} ] || { touch ${failed}; exit 1; }`);
    const early = new TreeSync(folder);
    early.wrote(40 * mebibyte);
    const many = await written(folder, 'many', 100);
    await early.sync([many]);
    early.wrote(40 * mebibyte);
    await early.sync([many]);
    expect(asked()).toHaveLength(1);
    await expect(early.sync([join(folder, 'nothing')])).rejects.toEqual(withCode('FLK_FILE_UNREADABLE'));
  });
});
