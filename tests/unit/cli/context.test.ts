import { homedir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { parseCommandLine } from '../../../src/cli/command-line.ts';
import { Context, foldersOf, makeReport, paletteFor, type World } from '../../../src/cli/context.ts';
import { JsonReport } from '../../../src/report/json.ts';
import { PlainReport } from '../../../src/report/plain.ts';
import { colours, noColours } from '../../../src/report/text.ts';
import { TtyReport } from '../../../src/report/tty.ts';

function world(env: NodeJS.ProcessEnv, isTTY = false): World & { readonly printed: string[] } {
  const printed: string[] = [];
  const terminal = { isTTY, write: (text: string) => printed.push(text) };
  return { env, cwd: '/somewhere', stdout: terminal, stderr: terminal, handOverSignals: () => {}, printed };
}

function context(line: string, env: NodeJS.ProcessEnv = {}, isTTY = false) {
  const around = world(env, isTTY);
  const asked = parseCommandLine(line.split(' '), env);
  if (asked.kind !== 'command') throw new Error('not a command');
  const made = new Context(around, asked, makeReport(around, asked.flags), new AbortController().signal);
  return { context: made, printed: around.printed };
}

describe('foldersOf', () => {
  it.each<[NodeJS.ProcessEnv, string | undefined, string, string]>([
    [{ HOME: '/h' }, undefined, '/h/.cache/flk', '/h/.local/share/flk'],
    [{ HOME: '/h', XDG_CACHE_HOME: '/c', XDG_DATA_HOME: '/d' }, undefined, '/c/flk', '/d/flk'],
    [
      { HOME: '/h', XDG_CACHE_HOME: 'c', XDG_DATA_HOME: '' },
      undefined,
      '/h/.cache/flk',
      '/h/.local/share/flk',
    ],
    [{ HOME: '/h' }, '/s', '/h/.cache/flk', '/s'],
    [{ HOME: '/h' }, 's/t', '/h/.cache/flk', '/somewhere/s/t'],
    [{ HOME: 'h' }, '/s', join(homedir(), '.cache/flk'), '/s'],
    [{}, '/s', join(homedir(), '.cache/flk'), '/s'],
  ])('%o, --store %s', (env, store, cache, wanted) => {
    expect(foldersOf({ env, cwd: '/somewhere' }, store)).toEqual({ cache, store: wanted });
  });
});

describe('pour', () => {
  it('sends no archive to a terminal, but a file', async () => {
    const { context: made } = context('store export x', {}, true);
    const untouched = (): Promise<void> => Promise.reject(new Error('begun'));
    await expect(made.pour('the NAR', untouched)).rejects.toMatchObject({
      code: 'FLK_USAGE',
      message: 'the NAR would go to the terminal',
    });
    let begun = false;
    await made.pour(
      'the file',
      async () => {
        begun = true;
      },
      { terminal: true },
    );
    expect(begun).toBe(true);
  });

  it('passes on what goes wrong', async () => {
    const { context: made } = context('store export x');
    await expect(made.pour('the NAR', () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
  });
});

describe('makeReport', () => {
  const flags = { 'log-format': undefined, quiet: false, 'print-build-logs': false };
  it.each<[string, NodeJS.ProcessEnv, boolean, string | undefined, object]>([
    ['a terminal', {}, true, undefined, TtyReport],
    ['a pipe', {}, false, undefined, PlainReport],
    ['a terminal that cannot move its cursor', { TERM: 'dumb' }, true, undefined, PlainReport],
    ['CI', { CI: 'true' }, true, undefined, PlainReport],
    ['a wish for json', {}, true, 'json', JsonReport],
    ['a wish for plain', {}, true, 'plain', PlainReport],
    ['a wish for tty', {}, false, 'tty', TtyReport],
  ])('for %s', (_, env, isTTY, asked, kind) => {
    expect(makeReport(world(env, isTTY), { ...flags, 'log-format': asked })).toBeInstanceOf(kind);
  });

  it('refuses another wish', () => {
    expect(() => makeReport(world({}), { ...flags, 'log-format': 'xml' })).toThrow(FlkError);
  });
});

it('paints only for a person who has not said no', () => {
  expect(paletteFor(world({}, true).stdout, {})).toBe(colours);
  expect(paletteFor(world({}, true).stdout, { NO_COLOR: '' })).toBe(colours);
  expect(paletteFor(world({}, true).stdout, { NO_COLOR: '1' })).toBe(noColours);
  expect(paletteFor(world({}, false).stdout, {})).toBe(noColours);
});

describe('Context', () => {
  it.each<[string, NodeJS.ProcessEnv, boolean, boolean]>([
    ['build', {}, false, false],
    ['build', { CI: 'true' }, true, true],
    ['run', { CI: 'true' }, true, true],
    ['lock', { CI: 'true' }, false, false],
    ['build --no-locked', { CI: 'true' }, false, false],
    ['build --locked', { CI: 'true' }, true, false],
    ['build --frozen', {}, true, false],
    ['build', { FLK_LOCKED: '1' }, true, false],
  ])('%s with %o may not change the lock: %s', (line, env, locked, byCi) => {
    const { context: made } = context(line, env);
    expect({ locked: made.locked, byCi: made.lockedByCi }).toEqual({ locked, byCi });
  });

  it('is offline when frozen', () => {
    expect(context('build --frozen').context.offline).toBe(true);
    expect(context('build').context.offline).toBe(false);
  });

  it('answers with the data under --json, else in words, else not at all', () => {
    const json = context('lock --json');
    json.context.answer({ a: 1 }, () => 'words');
    expect(json.printed).toEqual(['{\n  "a": 1\n}\n']);
    const words = context('lock');
    words.context.answer({ a: 1 }, () => 'words');
    words.context.answer({ a: 1 }, () => '');
    expect(words.printed).toEqual(['words\n']);
  });
});
