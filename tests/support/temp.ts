/** Folders that live as long as the test file. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, realpathSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

const made: string[] = [];

/** A new empty folder, by its real path (no symlinks in it). */
export function temporaryFolder(): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'flk-test-')));
  made.push(folder);
  return folder;
}

afterAll(() => {
  if (made.length === 0) return;
  const folders = made.splice(0);
  // Store paths have no write permission; and Node's own rm stumbles over names that are not UTF-8.
  execFileSync('chmod', ['-R', 'u+rwX', '--', ...folders], { stdio: 'ignore' });
  execFileSync('rm', ['-rf', '--', ...folders]);
});
