/** Where builds are refused because of where the store lies. */
import { chmodSync, lchownSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silent } from '../../../src/base/events.ts';
import { localEngine } from '../../../src/build/engines/local.ts';
import { assertSafePlace } from '../../../src/build/engines/safe-place.ts';
import { buildRequest } from '../../support/builds.ts';
import { errorOf } from '../../support/errors.ts';
import { folderStore } from '../../support/folder-store.ts';
import { temporaryFolder } from '../../support/temp.ts';

const user = process.getuid?.() ?? 0;

function store(): string {
  const folder = join(temporaryFolder(), 'parent/store');
  mkdirSync(folder, { recursive: true });
  return folder;
}

describe('a place for builds', () => {
  it('is any that only its owner can exchange, or that is not there yet', async () => {
    await assertSafePlace(store());
    await assertSafePlace(join(store(), 'not/there'));
    const shared = store();
    chmodSync(join(shared, '..'), 0o1777);
    await assertSafePlace(shared);
  });

  it('is not below a folder that everybody may change', async () => {
    const folder = store();
    chmodSync(join(folder, '..'), 0o777);
    const error = await errorOf(assertSafePlace(folder));
    expect(error).toMatchObject({ code: 'FLK_STORE_UNSAFE', hint: expect.stringContaining('chmod o-w') });
    const link = join(temporaryFolder(), 'link');
    symlinkSync(folder, link);
    expect(await errorOf(assertSafePlace(link))).toMatchObject({ code: 'FLK_STORE_UNSAFE' });
    const engine = localEngine({ store: folderStore(folder), sandbox: 'none', reporter: silent });
    expect(await errorOf(engine.build(buildRequest(': > $out', [])))).toMatchObject({
      code: 'FLK_STORE_UNSAFE',
    });
  });

  it('may be behind one’s own link, but in no circle', async () => {
    const folder = store();
    symlinkSync(folder, join(folder, '../mine'));
    await assertSafePlace(join(folder, '../mine'));
    symlinkSync('round', join(folder, 'round'));
    expect(await errorOf(assertSafePlace(join(folder, 'round')))).toMatchObject({ code: 'FLK_STORE_UNSAFE' });
  });

  it.skipIf(user !== 0)(
    `is not behind another user’s link${user === 0 ? '' : ' (only root can make one)'}`,
    async () => {
      const folder = store();
      const link = join(folder, '../theirs');
      symlinkSync(folder, link);
      lchownSync(link, 1234, 1234);
      expect((await errorOf(assertSafePlace(link))).message).toContain('another user');
    },
  );

  it('is not where programs cannot run', async () => {
    const folder = store();
    const lines = (options: string) =>
      `1 0 0:1 / / rw,noexec - ext4 x rw\n2 1 0:2 / ${join(folder, '..')} ${options} - ext4 y rw\n`;
    await assertSafePlace(folder, { user, mountinfo: lines('rw,relatime') });
    const error = await errorOf(assertSafePlace(folder, { user, mountinfo: lines('rw,noexec') }));
    expect(error).toMatchObject({ code: 'FLK_STORE_UNSAFE', hint: expect.stringContaining('remount,exec') });
  });
});
