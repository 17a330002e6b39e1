import { describe, expect, test } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { run } from '../../../src/base/process.ts';

const node = process.execPath;

describe('run', () => {
  test('gives status, output and errors, and does not take a failure for an exception', async () => {
    const done = await run(node, [
      '-e',
      'process.stdout.write("out"); process.stderr.write("err"); process.exitCode = 3',
    ]);
    expect({ ...done, stdout: done.stdout.toString() }).toEqual({ status: 3, stdout: 'out', stderr: 'err' });
  });

  test('passes arguments without a shell', async () => {
    const done = await run(node, ['-e', 'process.stdout.write(process.argv[1])', '$(id); "x" *']);
    expect(done.stdout.toString()).toBe('$(id); "x" *');
  });

  test('survives a program that does not read its input', async () => {
    const done = await run(node, ['-e', '0'], { input: Buffer.alloc(4 << 20) });
    expect(done.status).toBe(0);
  });

  test('stops a program that prints too much', async () => {
    const flood = run('yes', [], { maxOutput: 1 << 20 });
    await expect(flood).rejects.toMatchObject({ code: 'FLK_LIMIT' });
  });

  test('a missing program is an error of its own, an abort another', async () => {
    await expect(run('flk-no-such-program', [])).rejects.toBeInstanceOf(FlkError);
    await expect(run('git', [], { env: { PATH: '/nonexistent' } })).rejects.toMatchObject({
      code: 'FLK_GIT_MISSING',
    });
    const abort = new AbortController();
    const endless = run(node, ['-e', 'setInterval(() => {}, 1000)'], { signal: abort.signal });
    abort.abort();
    await expect(endless).rejects.toMatchObject({ code: 'FLK_INTERRUPTED' });
  });
});
