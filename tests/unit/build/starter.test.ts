/** The shell that starts builders: what a program is given of what was asked for, and how it ends. */
import { closeSync, constants, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type EndedProgram, type Program, Starter } from '../../../src/build/engines/starter.ts';
import { longSleep, running } from '../../support/builds.ts';
import { withCode } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const bounds = { maxFileBlocks: 1000, ulimits: ['unlimited', 'unlimited'], entrances: [] } as const;

let folder: string;
let starter: Starter;
let reading: number;

beforeEach(async () => {
  folder = temporaryFolder();
  starter = await Starter.create(join(folder, 'output'), bounds);
  // Also its own writing end, so that nothing waits for the other.
  reading = openSync(starter.output, constants.O_RDWR);
});
afterEach(() => {
  starter.kill();
  closeSync(reading);
});

const run = (argv: readonly string[], program: Partial<Program> = {}): Promise<EndedProgram | undefined> =>
  starter.run({ argv, cwd: folder, reports: false, inputs: [], ...program });

/** Runs a script by /bin/sh; gives what it wrote to `$1`. */
async function told(script: string, program: Partial<Program> = {}): Promise<string> {
  const file = join(folder, 'told');
  await run(['/bin/sh', '-c', script, 'sh', file], program);
  return readFileSync(file, 'latin1');
}

describe('a program', () => {
  it('is given each word as it is', async () => {
    const word = fc.string({
      unit: fc.constantFrom(
        'a',
        ' ',
        '\n',
        '\t',
        '\\',
        '"',
        "'",
        '$x',
        '`',
        '*',
        '-',
        'é',
        '\u0081',
        '\r',
        '🙂',
      ),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(word, { maxLength: 5 }), async (words) => {
        const file = join(folder, 'words');
        await run(['/bin/sh', '-c', 'f=$1; shift; printf "%s\\0" "$#" "$@" > "$f"', 'sh', file, ...words]);
        expect(readFileSync(file, 'utf8').split('\0').slice(0, -1)).toEqual([String(words.length), ...words]);
      }),
      { numRuns: 50 },
    );
  });

  it('is given thousands of words, and long ones', async () => {
    const many = Array.from({ length: 2000 }, (_, i) => `word ${i}`);
    expect(await run(['/bin/sh', '-c', '[ $# = 2000 ] && [ "$2000" != x ]', 'sh', ...many])).toMatchObject({
      status: 0,
    });
    const long = 'x'.repeat(100_000);
    expect(await run(['/bin/sh', '-c', `[ \${#1} = 100000 ]`, 'sh', long])).toMatchObject({ status: 0 });
  });

  it('cannot be given what no program can', async () => {
    await expect(run(['/bin/sh', 'a\0b'])).rejects.toEqual(withCode('FLK_DERIVATION_INVALID'));
    await expect(run(['/bin/sh', 'x'.repeat(131_072)])).rejects.toEqual(withCode('FLK_BUILD_FAILED'));
    await expect(run(['/bin/sh', ...Array(70).fill('x'.repeat(100_000))])).rejects.toEqual(
      withCode('FLK_BUILD_FAILED'),
    );
    // A quarter of the stack, as most have it.
    expect((await run(['/bin/sh', ...Array(22).fill('x'.repeat(100_000))]))?.status).toBe(126);
    expect(await run(['/bin/sh', '-c', 'exit 0'])).toMatchObject({ status: 0 });
  });

  it('tells how it ended', async () => {
    for (const status of [0, 1, 77, 255])
      expect(await run(['/bin/sh', '-c', `exit ${status}`])).toEqual({ status, report: '' });
    expect(await run(['/bin/sh', '-c', 'kill -SEGV $$'])).toMatchObject({ status: 139 });
    expect(await run(['/no/such/program'])).toMatchObject({ status: 127 });
    expect(starter.isAlive).toBe(true);
  });

  it('begins in its folder, with its three descriptors and no signal ignored', async () => {
    const inner = join(folder, '-a folder');
    mkdirSync(inner);
    expect(await told('{ pwd; umask; } > "$1"', { cwd: inner })).toBe(`${inner}\n0022\n`);
    const open = await told('readlink /proc/self/fd/* > "$1"');
    // What this process has inherited itself is covered; and where the answer goes.
    expect(new Set(open.trim().split('\n'))).toEqual(
      new Set(['/dev/null', starter.output, join(folder, 'told')]),
    );
    const ignored = await told('sed -n "s/^SigIgn:\\t//p" /proc/self/status > "$1"');
    // SIGINT and SIGQUIT.
    expect(BigInt(`0x${ignored.trim()}`) & 0b110n).toBe(0n);
  });

  it('finds its inputs at 4 and 5, and what it tells on 3 is heard', async () => {
    writeFileSync(join(folder, 'first'), 'one');
    writeFileSync(join(folder, 'second'), 'two');
    const script = 'echo "$(cat <&4) $(cat <&5)" >&3; echo end >&3; exit 4';
    for (let round = 0; round < 2; round++)
      expect(
        await run(['/bin/sh', '-c', script], { reports: true, inputs: ['first', join(folder, 'second')] }),
      ).toEqual({ status: 4, report: 'one two\nend' });
    expect(
      await run(['/bin/sh', '-c', 'cat <&4 >&3; echo >&3'], { reports: true, inputs: ['first'] }),
    ).toEqual({
      status: 0,
      report: 'one',
    });
  });

  it('writes no file that is larger than it may', async () => {
    expect((await run(['/bin/sh', '-c', 'head -c 1000000 /dev/zero > large']))?.status).not.toBe(0);
    expect(readFileSync(join(folder, 'large'))).toHaveLength(512_000);
  });
});

describe('a starter', () => {
  it('takes with it what it runs when it is killed', async () => {
    const word = longSleep();
    const ended = run(['/bin/sh', '-c', `sleep ${word} & sleep ${word}`]);
    await expect.poll(() => running(word)).toHaveLength(2);
    starter.kill();
    expect(await ended).toBeUndefined();
    expect(starter.isAlive).toBe(false);
    await expect.poll(() => running(word)).toEqual([]);
  });

  it('is not there where it cannot keep to the bounds', async () => {
    const entrances = [join(folder, 'no/such/group')];
    await expect(Starter.create(join(folder, 'other'), { ...bounds, entrances })).rejects.toEqual(
      withCode('FLK_SANDBOX_UNAVAILABLE'),
    );
    await expect(Starter.create(join(folder, 'no/such/folder'), bounds)).rejects.toEqual(
      withCode('FLK_SANDBOX_UNAVAILABLE'),
    );
  });
});
