import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../../src/base/errors.ts';
import { helpText, parseCommandLine } from '../../../src/cli/command-line.ts';
import { commands } from '../../../src/cli/command-table.ts';
import { type Flags, type OptionRow, options } from '../../../src/cli/options.ts';
import { thrownBy } from '../../support/errors.ts';

function parsed(line: string, env: NodeJS.ProcessEnv = {}) {
  const result = parseCommandLine(line.split(' '), env);
  if (result.kind !== 'command') throw new Error(`not a command: ${result.kind}`);
  return result;
}

function refusal(line: string, env: NodeJS.ProcessEnv = {}): FlkError {
  return thrownBy(() => parseCommandLine(line.split(' '), env));
}

const given = (flags: Flags): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(flags).filter(([, value]) => value !== false && value !== undefined && `${value}` !== ''),
  );

describe('parseCommandLine', () => {
  it.each<[string, readonly string[], readonly string[], Record<string, unknown>]>([
    ['lock', [], [], {}],
    ['lock ./x --check', ['./x'], [], { check: true }],
    ['--json metadata', [], [], { json: true }],
    ['build .#a .#b -L -j 4', ['.#a', '.#b'], [], { 'print-build-logs': true, 'max-jobs': 4 }],
    ['build -kLj4', [], [], { 'keep-going': true, 'print-build-logs': true, 'max-jobs': 4 }],
    ['build --out-link=out', [], [], { 'out-link': 'out' }],
    ['build -o out', [], [], { 'out-link': 'out' }],
    ['build --out-link --weird', [], [], { 'out-link': '--weird' }],
    ['build --no-link', [], [], { 'no-link': true }],
    ['run .#x -- --json -L a', ['.#x'], ['--json', '-L', 'a'], {}],
    ['run --', [], [], {}],
    ['update a b/c --flake git+http://x/y', ['a', 'b/c'], [], { flake: 'git+http://x/y' }],
    [
      'lock --override-input a ./x --override-input a/b ./y',
      [],
      [],
      {
        'override-input': [
          ['a', './x'],
          ['a/b', './y'],
        ],
      },
    ],
    [
      'lock --update-input a --allow-dirty --update-input=b/c',
      [],
      [],
      { 'update-input': ['a', 'b/c'], 'allow-dirty': true },
    ],
    ['shell a b -c sh --json -- -k', ['a', 'b'], [], { command: ['sh', '--json', '--', '-k'] }],
    ['shell --command=sh -x', [], [], { command: ['sh', '-x'] }],
    ['shell a -- sh -c x', ['a'], ['sh', '-c', 'x'], {}],
    [
      'shell -ik HOME --keep=PATH --set-env-var A b -sC d',
      [],
      [],
      {
        'ignore-env': true,
        'keep-env-var': ['HOME', 'PATH'],
        'set-env-var': [
          ['A', 'b'],
          ['C', 'd'],
        ],
      },
    ],
    ['shell --ignore-environment --unset X', [], [], { 'ignore-env': true, 'unset-env-var': ['X'] }],
    ['build -k', [], [], { 'keep-going': true }],
    ['set a --ref=m --follows b=c', ['a'], [], { ref: 'm', follows: ['b=c'] }],
    ['add git+http://x/y --version ^1.2', ['git+http://x/y'], [], { version: '^1.2' }],
  ])('reads %s', (line, args, rest, flags) => {
    const result = parsed(line);
    expect(result.args).toEqual(args);
    expect(result.rest).toEqual(rest);
    expect(given(result.flags)).toEqual(flags);
  });

  it('tells --no-locked from silence', () => {
    expect(parsed('build').flags.locked).toBeUndefined();
    expect(parsed('build --no-locked').flags.locked).toBe(false);
    expect(parsed('build --locked').flags.locked).toBe(true);
  });

  it.each([
    ['', { kind: 'help', command: undefined }],
    ['--help', { kind: 'help', command: undefined }],
    ['help lock', { kind: 'help', command: 'lock' }],
    ['lock -h', { kind: 'help', command: 'lock' }],
    ['lock --help --check', { kind: 'help', command: 'lock' }],
    ['--version', { kind: 'version' }],
    ['-V', { kind: 'version' }],
  ])("answers '%s'", (line, answer) => {
    expect(parseCommandLine(line === '' ? [] : line.split(' '), {})).toEqual(answer);
  });

  it.each([
    ['lokc', "there is no command 'lokc'", 'flk lock'],
    ['help biuld', "there is no command 'biuld'", 'flk build'],
    ['lock --chekc', 'there is no option --chekc', 'did you mean --check?'],
    ['build --no-lock', 'there is no option --no-lock', 'did you mean --no-link?'],
    ['lock --no-link', 'flk lock has no option --no-link', 'flk lock --help'],
    ['lock -x', 'there is no option -x', 'flk lock --help'],
    ['lock a b', "flk lock does not take 'b'", 'flk lock --help'],
    ['explain', 'flk explain needs CODE', 'flk explain --help'],
    ['build --max-jobs', '--max-jobs needs N', 'flk build --help'],
    ['build --max-jobs many', "--max-jobs needs a whole number, not 'many'", 'flk --help'],
    ['build --json=yes', '--json takes no value', 'flk build --help'],
    ['lock --override-input a', '--override-input needs PATH REF', 'flk lock --help'],
    ['lock --update-input', '--update-input needs PATH', 'flk lock --help'],
    ['lock -- x', 'flk lock takes nothing after --', 'flk lock --help'],
    ['--json', 'there is no command', 'flk --help'],
    ['-- lock', 'there is no command', 'flk --help'],
    ['constructor', "there is no command 'constructor'", 'flk --help lists the commands'],
    ['lock --toString', 'there is no option --toString', 'flk lock --help'],
  ])('refuses %s', (line, message, hint) => {
    const error = refusal(line);
    expect(error.code).toBe('FLK_USAGE');
    expect(error.message).toBe(message);
    expect(error.hint).toBe(hint);
  });

  it('takes from the environment what the command knows and the line does not say', () => {
    expect(parsed('lock', { FLK_OFFLINE: '1', FLK_STORE: '/s', FLK_LOCKED: 'true' }).flags).toMatchObject({
      offline: true,
      store: '/s',
      locked: true,
    });
    expect(parsed('lock --no-locked --store t', { FLK_STORE: '/s', FLK_LOCKED: '1' }).flags).toMatchObject({
      store: 't',
      locked: false,
    });
    expect(parsed('lock', { FLK_OFFLINE: '0', FLK_LOCKED: '' }).flags).toMatchObject({
      offline: false,
      locked: undefined,
    });
    expect(parsed('explain x', { FLK_OFFLINE: '1' }).flags.offline).toBe(false);
    expect(refusal('lock', { FLK_OFFLINE: 'maybe' }).message).toBe("FLK_OFFLINE must be 1 or 0, not 'maybe'");
  });

  it('answers or refuses any line with FLK_USAGE, nothing else', () => {
    const word = fc.oneof(
      fc.constantFrom(
        ...Object.keys(commands),
        ...Object.keys(options).map((name) => `--${name}`),
        '--',
        '-',
        '-L',
        '-j',
        '-j3',
      ),
      fc.string({ maxLength: 6 }),
    );
    fc.assert(
      fc.property(fc.array(word), (argv) => {
        try {
          parseCommandLine(argv, {});
        } catch (error) {
          expect(error).toBeInstanceOf(FlkError);
          expect((error as FlkError).code).toBe('FLK_USAGE');
        }
      }),
    );
  });
});

describe('helpText', () => {
  it('lists every command', () => {
    for (const [name, { summary }] of Object.entries(commands)) {
      expect(helpText(undefined)).toMatch(new RegExp(`^  ${name} +${summary.slice(0, 10)}`, 'm'));
    }
  });

  it.each(Object.keys(commands) as (keyof typeof commands)[])('describes each option of %s', (name) => {
    const text = helpText(name);
    expect(text).toContain(`flk ${name} ${commands[name].args}`);
    for (const option of commands[name].options)
      expect(text).toMatch(new RegExp(`--(\\[no-\\])?${option}\\b`));
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(132);
  });
});

it.each(Object.entries(commands))('gives each name and letter of flk %s to one option', (_, command) => {
  const words = command.options.flatMap((name) => {
    const row: OptionRow = options[name];
    return [`--${name}`, ...(row.alias ? [`--${row.alias}`] : []), ...(row.short ? [`-${row.short}`] : [])];
  });
  expect(words.filter((word, at) => words.indexOf(word) < at)).toEqual([]);
});
