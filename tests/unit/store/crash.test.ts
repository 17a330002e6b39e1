import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../../src/base/process.ts';
import { parseStorePath, type StorePath } from '../../../src/formats/store-path.ts';
import { openStore, type Store } from '../../../src/store/store.ts';
import { bundleChild, startChild } from '../../support/child.ts';
import { temporaryFolder } from '../../support/temp.ts';

const writer = new URL('writer.ts', import.meta.url);

const onDisk = (store: Store): StorePath[] =>
  readdirSync(join(store.root, 'nix/store')).map((base) => parseStorePath(`/nix/store/${base}`));

/** Every path with a record is whole, and so is what it refers to. Returns how many there are. */
async function audit(store: Store): Promise<number> {
  const valid = onDisk(store).filter((path) => store.query(path));
  for (const path of valid) await store.verifyPath(path);
  store.closure(valid);
  return valid.length;
}

describe('a store that many processes write', () => {
  it('is whole after each of them was killed in the middle, again and again', async () => {
    const root = temporaryFolder();
    const file = await bundleChild(writer);
    for (let round = 0; round < 3; round++) {
      const children = Array.from({ length: 6 }, (_, i) => startChild(file, [root, String(i)]));
      // Each dies at another moment of its work, while the others go on.
      for (const [i, child] of children.entries()) {
        await new Promise<void>((written) => {
          let steps = 0;
          child.process.on('message', () => ++steps > round && written());
        });
        await new Promise((later) => setTimeout(later, i * 7));
        child.process.kill('SIGKILL');
        expect(await child.over).toBe('SIGKILL');
      }
      const store = await openStore(root);
      expect(await audit(store)).toBeGreaterThan(round);
      expect(readdirSync(join(root, 'nix/var/flk/stage'))).toEqual([]);
      store.close();
    }
  });

  it('holds everything that all of them wrote', async () => {
    const root = temporaryFolder();
    const file = await bundleChild(writer);
    const rounds = 6;
    const children = Array.from({ length: 6 }, (_, i) => startChild(file, [root, String(i), String(rounds)]));
    expect(await Promise.all(children.map(({ over }) => over))).toEqual([0, 0, 0, 0, 0, 0]);
    const store = await openStore(root);
    // Per name a source, three texts and an output: three names are shared, three are each writer's own.
    expect(await audit(store)).toBe(5 * (3 + 6 * 3));
    expect(onDisk(store)).toHaveLength(5 * (3 + 6 * 3));
    expect(store.memo('own-5-5')).toMatch(/-out-own-5-5$/);
    expect(readdirSync(join(root, 'nix/var/flk/stage'))).toEqual([]);
    expect(readdirSync(join(root, 'nix/var/flk/locks'))).toEqual([]);
    store.close();
  });
});

const canMount = await run('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt']).then(
  ({ status }) => status === 0,
  () => false,
);

describe.skipIf(!canMount)(
  `a store on a disk ${canMount ? 'of its own' : '(skipped: no user namespace to mount one in)'}`,
  () => {
    const script = `
    mount -t tmpfs -o size=12m none "$1" && "$2" "$3" "$1" fill &&
    mount -o remount,bind,ro "$1" && "$2" "$3" "$1" look &&
    mount -o remount,bind,rw "$1" && "$2" "$3" "$1" look
  `;
    it('says that a disk is full or read-only, and goes on when it no longer is', async () => {
      const mountPoint = join(temporaryFolder(), 'disk');
      mkdirSync(mountPoint);
      const file = await bundleChild(new URL('full-disk.ts', import.meta.url));
      const { status, stdout, stderr } = await run('unshare', [
        '-rm',
        'sh',
        '-c',
        script,
        'sh',
        mountPoint,
        process.execPath,
        file,
      ]);
      expect(stderr).toBe('');
      expect(status).toBe(0);
      expect(stdout.toString().trim().split('\n')).toEqual([
        'large tree: FLK_FILE_UNWRITABLE',
        'stages left: 0',
        'small tree: fine',
        'many texts: FLK_FILE_UNWRITABLE',
        'optimise: FLK_FILE_UNWRITABLE',
        'sweep: fine',
        'stages left: 0',
        'with room again: fine',
        'small tree: fine',
        'known text: fine',
        'new text: FLK_FILE_UNWRITABLE',
        'sweep: FLK_FILE_UNWRITABLE',
        'optimise: FLK_FILE_UNWRITABLE',
        'open: fine',
        'small tree: fine',
        'known text: fine',
        'new text: fine',
        'sweep: fine',
        'optimise: fine',
        'open: fine',
      ]);
    });
  },
);
