/** Temporary folders that go away, and trees written into them. */
import { chmodSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { removeTree } from '../../src/store/tree-files.ts';
import type { Node } from './trees.ts';

/** An empty folder that lasts as long as the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'flk-test-'));
  onTestFinished(() => removeTree(folder));
  return folder;
}

/** Writes a node to disk with ordinary modes. */
export function writeNode(node: Node, path: string | Buffer): void {
  if (node.type === 'symlink') symlinkSync(node.target, path);
  else if (node.type === 'file') {
    writeFileSync(path, node.contents);
    chmodSync(path, node.executable ? 0o755 : 0o644);
  } else {
    mkdirSync(path);
    for (const [name, child] of node.entries)
      writeNode(child, Buffer.concat([Buffer.from(path), Buffer.from('/'), Buffer.from(name, 'latin1')]));
  }
}
