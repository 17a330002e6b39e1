/** What programs print, as it is read into memory that is used again. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { startInto } from '../../../src/base/process.ts';
import { openProgramOutput, type ProgramOutput } from '../../../src/base/program-output.ts';
import { temporaryFolder } from '../../support/temp.ts';

async function opened(): Promise<ProgramOutput> {
  const output = await openProgramOutput();
  if (!output) throw new Error('there is no place for a socket');
  return output;
}

/** Node itself, for it writes in pieces of the sizes that it is told. */
function printing(output: ProgramOutput, code: string): ReturnType<typeof startInto> {
  const child = startInto(output.end, process.execPath, ['-e', code]);
  output.end.destroy();
  child.stdin.end();
  return child;
}

/** Writes all of it, in pieces of changing sizes. */
const numbers = (size: number): string =>
  `const all = Buffer.alloc(${size}); for (let i = 0; i < all.length; i += 4) all.writeUInt32LE(i, i);
   for (let at = 0, i = 0; at < all.length; i++) {
     const length = Math.min(all.length - at, [1, 8192, 300_000, 77][i % 4]);
     for (let end = at + length; at < end; ) at += require('node:fs').writeSync(1, all, at, end - at);
   }`;

function hashOf(size: number): string {
  const all = Buffer.alloc(size);
  for (let i = 0; i < all.length; i += 4) all.writeUInt32LE(i, i);
  return createHash('sha256').update(all).digest('hex');
}

afterEach(() => vi.unstubAllEnvs());

describe('what a program prints', () => {
  it.each([
    ['nothing', 0],
    ['a few bytes', 12],
    ['as much as is handed on at once', 128 * 1024],
    ['much', 20_000_000],
  ])('is read whole: %s', async (_, size) => {
    const output = await opened();
    const child = printing(output, numbers(size));
    const hash = createHash('sha256');
    let chunks = 0;
    for await (const chunk of output.chunks) {
      hash.update(chunk);
      // At times the reader is the slower one, so that both buffers are full.
      if (chunks++ % 10 === 0) await sleep(5);
    }
    expect(hash.digest('hex')).toBe(hashOf(size));
    expect(await child.finished).toEqual({ status: 0, stderr: '' });
    // Not one for each of the program's writes.
    expect(chunks).toBeLessThanOrEqual(Math.ceil(size / (128 * 1024)));
  });

  it('makes the program wait for a reader that is slow', async () => {
    const output = await opened();
    const child = printing(output, `${numbers(4_000_000)} process.stderr.write('done');`);
    const chunks = output.chunks[Symbol.asyncIterator]();
    await chunks.next();
    expect(await Promise.race([child.finished, sleep(700, 'waiting')])).toBe('waiting');
    for (let next = await chunks.next(); !next.done; ) next = await chunks.next();
    expect(await child.finished).toEqual({ status: 0, stderr: 'done' });
  });

  it('ends the program where the reader goes', async () => {
    const output = await opened();
    const child = printing(output, numbers(4_000_000));
    for await (const _ of output.chunks) break;
    expect((await child.finished).status).not.toBe(0);
  });

  it('is nothing where there is no such program', async () => {
    const output = await opened();
    const child = startInto(output.end, '/nonexistent', []);
    output.end.destroy();
    await expect(child.finished).rejects.toThrow('not found');
    for await (const _ of output.chunks) throw new Error('there is something');
  });

  it('leaves no file behind, and needs a place for one', async () => {
    const folder = temporaryFolder();
    vi.stubEnv('TMPDIR', folder);
    const output = await opened();
    expect(readdirSync(folder)).toEqual([]);
    output.end.destroy();
    await once(output.end, 'close');
    vi.stubEnv('TMPDIR', '/nonexistent');
    expect(await openProgramOutput()).toBeUndefined();
    const deep = join(folder, ...Array.from({ length: 5 }, () => 'a-long-name-of-a-folder'));
    mkdirSync(deep, { recursive: true });
    vi.stubEnv('TMPDIR', deep);
    expect(await openProgramOutput()).toBeUndefined();
    expect(readdirSync(deep)).toEqual([]);
  });
});
