/** The little of a store that an engine needs, over a folder: where paths lie and where to stage. */
import { mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type { Store } from '../../src/store/store.ts';
import { removeTree } from '../../src/store/tree-files.ts';

export function folderStore(root: string): Pick<Store, 'physical' | 'query' | 'stage'> {
  mkdirSync(join(root, 'nix/store'), { recursive: true });
  mkdirSync(join(root, 'stage'), { recursive: true });
  return {
    physical: (path) => join(root, path),
    query: () => undefined,
    stage: async () => {
      const path = mkdtempSync(join(root, 'stage/build-'));
      return {
        path,
        expects: () => {},
        wrote: () => {},
        dispose: () => removeTree(path),
      };
    },
  };
}
