/** Logs of builds on disk: compressed at the end, plain before, the last one read. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { BuildLog, followLog, logPath, readLog } from '../../../src/build/build-log.ts';
import { parseStorePath } from '../../../src/formats/store-path.ts';
import { temporaryFolder } from '../../support/temp.ts';

const drv = parseStorePath(`/nix/store/${'a'.repeat(32)}-hello.drv`);

async function textOf(root: string): Promise<string | undefined> {
  const log = await readLog(root, drv);
  return log && Buffer.concat(await log.toArray()).toString();
}

describe('the log of a build', () => {
  it('is plain while it runs, and compressed at the end', async () => {
    const root = temporaryFolder();
    const path = logPath(root, drv);
    expect(await textOf(root)).toBeUndefined();
    const log = BuildLog.create(root, drv);
    log.add('one');
    log.add('zwei – 二');
    await nextTurn();
    expect(readFileSync(path, 'utf8')).toBe('one\nzwei – 二\n');
    expect(await textOf(root)).toBe('one\nzwei – 二\n');
    log.add('three');
    await log.close();
    expect(readdirSync(dirname(path))).toEqual([`${path.slice(dirname(path).length + 1)}.gz`]);
    expect(gunzipSync(readFileSync(`${path}.gz`)).toString()).toBe('one\nzwei – 二\nthree\n');
    expect(await textOf(root)).toBe('one\nzwei – 二\nthree\n');
  });

  it.each([0, 1, 20_000])('keeps %i lines, also those of the last moment', async (count) => {
    const root = temporaryFolder();
    const log = BuildLog.create(root, drv);
    const lines = Array.from({ length: count }, (_, i) => `line ${i} ✓`);
    for (const [i, line] of lines.entries()) {
      log.add(line);
      if (i === 10_000) await nextTurn();
    }
    await log.close();
    expect(existsSync(logPath(root, drv))).toBe(false);
    expect(await textOf(root)).toBe(lines.map((line) => `${line}\n`).join(''));
  });

  it('is the last build’s: what a killed one left is read, and gives way to the next', async () => {
    const root = temporaryFolder();
    const first = BuildLog.create(root, drv);
    first.add('first');
    await first.close();
    const killed = BuildLog.create(root, drv);
    killed.add('killed');
    await nextTurn();
    expect(await textOf(root)).toBe('killed\n');
    const third = BuildLog.create(root, drv);
    await third.close();
    expect(await textOf(root)).toBe('');
  });

  it('does not fail where it cannot be written', async () => {
    const root = temporaryFolder();
    const log = BuildLog.create(root, drv);
    rmSync(dirname(logPath(root, drv)), { recursive: true });
    log.add('lost');
    await nextTurn();
    await log.close();
    expect(await textOf(root)).toBeUndefined();
    expect(log.explain('hello', new FlkError('FLK_BUILD_FAILED', 'it failed')).facts['last lines']).toBe(
      'lost',
    );
  });

  it('is followed to its end', async () => {
    const root = temporaryFolder();
    const signal = new AbortController().signal;
    const follow = () => followLog(root, drv, async () => true, signal);
    expect(await follow()).toBeUndefined();
    const log = BuildLog.create(root, drv);
    log.add('one');
    await nextTurn();
    const following = (await follow())!.toArray();
    log.add('two');
    await nextTurn();
    log.add('three');
    await log.close();
    expect((await following).join('')).toBe('one\ntwo\nthree\n');
    expect((await (await follow())!.toArray()).join('')).toBe('one\ntwo\nthree\n');
  });

  it('is followed until one has enough', async () => {
    const root = temporaryFolder();
    const controller = new AbortController();
    const log = BuildLog.create(root, drv);
    log.add('one');
    await nextTurn();
    const following = (await followLog(root, drv, async () => true, controller.signal))!.toArray();
    controller.abort();
    await expect(following).rejects.toThrow();
    await log.close();
  });

  it('is followed no further than who writes it lived', async () => {
    const root = temporaryFolder();
    const log = BuildLog.create(root, drv);
    log.add('one');
    await nextTurn();
    // It ends between two looks, and not without a last word.
    let looks = 0;
    const isBuilding = async (): Promise<boolean> => {
      if (++looks === 2) log.add('two');
      await nextTurn();
      return looks < 2;
    };
    const following = (await followLog(root, drv, isBuilding, new AbortController().signal))!;
    expect((await following.toArray()).join('')).toBe('one\ntwo\n');
    expect(looks).toBe(2);
  });

  it('tells when its file is damaged', async () => {
    const root = temporaryFolder();
    mkdirSync(dirname(logPath(root, drv)), { recursive: true });
    writeFileSync(`${logPath(root, drv)}.gz`, 'not gzip');
    await expect(textOf(root)).rejects.toThrow();
  });
});
