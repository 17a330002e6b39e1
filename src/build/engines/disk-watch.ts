/** Looks now and then at what a build has on disk, so that no build fills it: a cap on single files does not stop many. */
import type { Dirent } from 'node:fs';
import { lstat, readdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { bytePath, onDisk } from '../../store/tree-files.ts';

export interface DiskLimits {
  /** Bytes that all folders together may take on disk. */
  readonly maxBytes: number;
  /** Bytes that must stay free where they lie. */
  readonly minFree: number;
}

/** Milliseconds between two looks, at least; a look that takes long is followed by a longer pause. */
const pause = 500;
const share = 20;

/**
 * Until `stop` is called, tells `end` when the folders have outgrown a limit: FLK_BUILD_OUTPUT_LIMIT or FLK_BUILD_DISK_FULL. What the
 * builder has shut against its own user, or nested too deep to name, is only seen in the space that is left.
 */
export function watchDisk(
  folders: readonly string[],
  limits: DiskLimits,
  end: (error: FlkError) => void,
): { stop(): void } {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const look = async (): Promise<void> => {
    const began = performance.now();
    const error = await judge(folders, limits, () => stopped).catch(() => undefined);
    if (stopped) return;
    if (error) end(error);
    else timer = setTimeout(look, Math.max(pause, share * (performance.now() - began)));
  };
  timer = setTimeout(look, pause);
  return {
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

async function judge(
  folders: readonly string[],
  { maxBytes, minFree }: DiskLimits,
  stopped: () => boolean,
): Promise<FlkError | undefined> {
  const { bavail, bsize } = await statfs(folders[0]!);
  const free = bavail * bsize;
  if (free < minFree)
    return new FlkError(
      'FLK_BUILD_DISK_FULL',
      `the builder was stopped: only ${free} bytes of disk are left`,
      {
        facts: { found: `${free} bytes free`, wanted: `${minFree} bytes` },
      },
    );
  const used = await diskUsage(folders, maxBytes, stopped);
  if (used > maxBytes)
    return new FlkError(
      'FLK_BUILD_OUTPUT_LIMIT',
      `the builder’s files take more than ${maxBytes} bytes of disk`,
    );
  return undefined;
}

/** Bytes on disk of all that is in these folders; stops counting above `enough`. */
async function diskUsage(
  folders: readonly string[],
  enough: number,
  stopped: () => boolean,
): Promise<number> {
  // Byte paths: a builder hides nothing behind names that are not UTF-8.
  const left = folders.map(bytePath);
  // A file with several names takes its place once.
  const seen = new Set<number>();
  let sum = 0;
  for (let folder = left.pop(); folder !== undefined && sum <= enough; folder = left.pop()) {
    const options = { withFileTypes: true, encoding: 'latin1' } as const;
    const entries: Dirent[] = await readdir(onDisk(folder), options).catch(() => []);
    for (const entry of entries) {
      if (stopped()) return 0;
      const path = join(folder, entry.name);
      const info = await lstat(onDisk(path)).catch(() => undefined);
      if (!info || seen.has(info.ino)) continue;
      if (info.nlink > 1 && !info.isDirectory()) seen.add(info.ino);
      sum += info.blocks * 512;
      if (info.isDirectory()) left.push(path);
    }
  }
  return sum;
}
