/** Command lines read by the tables in options.ts and command-table.ts, and the help that it makes. */
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { type CommandName, type CommandRow, commands } from './command-table.ts';
import { type Flags, type OptionName, type OptionRow, options } from './options.ts';

export type Invocation =
  | { readonly kind: 'help'; readonly command: CommandName | undefined }
  | { readonly kind: 'version' }
  | {
      readonly kind: 'command';
      readonly command: CommandName;
      readonly args: readonly string[];
      /** What stands after `--`. */
      readonly rest: readonly string[];
      readonly flags: Flags;
    };

/**
 * Reads a command line (without node and script) and the environment. Options may stand anywhere after the command; `--` ends them.
 * Throws FLK_USAGE, naming what was most likely meant.
 */
export function parseCommandLine(argv: readonly string[], env: NodeJS.ProcessEnv): Invocation {
  const first = argv[0];
  if (first === undefined || first === 'help' || first === '--help' || first === '-h') {
    const topic = first === 'help' ? argv[1] : undefined;
    return { kind: 'help', command: topic === undefined ? undefined : commandNamed(topic) };
  }
  if (first === '--version' || first === '-V') return { kind: 'version' };

  const words: string[] = [];
  const given = new Map<OptionName, Given>();
  let at = 0;
  while (at < argv.length && argv[at] !== '--') {
    const word = argv[at++]!;
    if (word === '-' || !word.startsWith('-')) {
      words.push(word);
      continue;
    }
    for (const { name, written, value: attached, negated } of optionsIn(word, words[0])) {
      const row: OptionRow = options[name];
      const next = (): string => {
        const value = argv[at++];
        if (value === undefined || value === '--')
          throw usage(`${written} needs ${row.value ?? 'a value'}`, words[0]);
        return value;
      };
      if (row.kind === 'flag') given.set(name, { written, value: !negated });
      else if (row.kind === 'words') {
        const all = [...(attached === undefined ? [] : [attached]), ...argv.slice(at)];
        if (all.length === 0) throw usage(`${written} needs ${row.value ?? 'a value'}`, words[0]);
        given.set(name, { written, value: all });
        at = argv.length;
      } else if (row.kind === 'pair' || row.kind === 'list') {
        const before = given.get(name)?.value;
        const value = attached ?? next();
        const one = row.kind === 'pair' ? ([value, next()] as const) : value;
        given.set(name, { written, value: [...(Array.isArray(before) ? before : []), one] });
      } else given.set(name, { written, value: attached ?? next() });
    }
  }
  const rest = argv.slice(at + 1);

  const [commandWord, ...args] = words;
  if (commandWord === undefined) throw usage('there is no command', undefined);
  const command = commandNamed(commandWord);
  if (given.has('help')) return { kind: 'help', command };
  const row: CommandRow = commands[command];
  for (const [name, { written }] of given) {
    if (!row.options.includes(name)) throw usage(`flk ${command} has no option ${written}`, command);
  }
  if (args.length < row.min) throw usage(`flk ${command} needs ${row.args}`, command);
  if (row.max !== undefined && args.length > row.max)
    throw usage(`flk ${command} does not take '${args[row.max]!}'`, command);
  if (at < argv.length && !row.rest) throw usage(`flk ${command} takes nothing after --`, command);
  return { kind: 'command', command, args, rest, flags: collect(given, row, env) };
}

interface Given {
  readonly written: string;
  readonly value: string | boolean | readonly (string | readonly [string, string])[];
}

interface Occurrence {
  readonly name: OptionName;
  readonly written: string;
  readonly value?: string;
  readonly negated: boolean;
}

/** The options that one word holds: `--json`, `--store=DIR`, `--no-locked`, `-L`, `-kL`, `-j4`. */
function optionsIn(word: string, command: string | undefined): Occurrence[] {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    const written = equals === -1 ? word : word.slice(0, equals);
    const value = equals === -1 ? {} : { value: word.slice(equals + 1) };
    const name = optionNamed(written.slice(2), command);
    if (name !== undefined) {
      if (equals !== -1 && options[name].kind === 'flag') throw usage(`${written} takes no value`, command);
      return [{ name, written, negated: false, ...value }];
    }
    const positive = written.startsWith('--no-') ? written.slice(5) : '';
    if (isOption(positive) && 'negatable' in options[positive] && equals === -1)
      return [{ name: positive, written, negated: true }];
    throw unknownOption(written, command);
  }
  const found: Occurrence[] = [];
  for (let i = 1; i < word.length; i++) {
    const written = `-${word[i]!}`;
    const name = candidates(command).find((option) => (options[option] as OptionRow).short === word[i]);
    if (name === undefined) throw unknownOption(written, command);
    if (options[name].kind === 'flag') {
      found.push({ name, written, negated: false });
      continue;
    }
    const value = word.slice(i + 1);
    found.push({ name, written, negated: false, ...(value === '' ? {} : { value }) });
    break;
  }
  return found;
}

/** All options, the command's own first: two commands may mean different ones by one letter or by one other name. */
function candidates(command: string | undefined): readonly OptionName[] {
  const own: readonly OptionName[] =
    command !== undefined && isCommand(command) ? commands[command].options : [];
  return [...own, ...Object.keys(options).filter(isOption)];
}

function optionNamed(word: string, command: string | undefined): OptionName | undefined {
  return candidates(command).find((name) => name === word || (options[name] as OptionRow).alias === word);
}

const isOption = (name: string): name is OptionName => Object.hasOwn(options, name);
const isCommand = (name: string): name is CommandName => Object.hasOwn(commands, name);

function commandNamed(word: string): CommandName {
  if (isCommand(word)) return word;
  const meant = nearest(word, Object.keys(commands));
  throw new FlkError('FLK_USAGE', `there is no command '${word}'`, {
    ...(meant === undefined ? {} : { hint: `flk ${meant}` }),
  });
}

function unknownOption(written: string, command: string | undefined): FlkError {
  const known =
    command !== undefined && isCommand(command) ? commands[command].options : Object.keys(options);
  const meant = written.startsWith('--')
    ? nearest(
        written,
        known.flatMap((name) =>
          isOption(name) && 'negatable' in options[name] ? [`--${name}`, `--no-${name}`] : [`--${name}`],
        ),
      )
    : undefined;
  return meant === undefined
    ? usage(`there is no option ${written}`, command)
    : new FlkError('FLK_USAGE', `there is no option ${written}`, { hint: `did you mean ${meant}?` });
}

function usage(message: string, command: string | undefined): FlkError {
  return new FlkError('FLK_USAGE', message, {
    hint: command !== undefined && isCommand(command) ? `flk ${command} --help` : 'flk --help',
  });
}

function collect(given: ReadonlyMap<OptionName, Given>, command: CommandRow, env: NodeJS.ProcessEnv): Flags {
  const flags: Record<string, unknown> = {};
  for (const [name, row] of Object.entries(options) as [OptionName, OptionRow][]) {
    const value = given.get(name)?.value ?? fromEnvironment(row, command.options.includes(name) ? env : {});
    if (row.kind === 'pair' || row.kind === 'list' || row.kind === 'words') flags[name] = value ?? [];
    else if (row.kind === 'flag') flags[name] = value ?? (row.negatable ? undefined : false);
    else if (row.kind === 'number' && value !== undefined && value === row.zero) flags[name] = 0;
    else if (row.kind === 'number' && typeof value === 'string') {
      if (!/^\d{1,9}$/.test(value)) throw usage(`--${name} needs a whole number, not '${value}'`, undefined);
      flags[name] = Number(value);
    } else flags[name] = value;
  }
  return flags as Flags;
}

function fromEnvironment(row: OptionRow, env: NodeJS.ProcessEnv): string | boolean | undefined {
  const text = row.env === undefined ? undefined : env[row.env];
  if (text === undefined || text === '') return undefined;
  if (row.kind !== 'flag') return text;
  if (/^(1|true|yes|on)$/i.test(text)) return true;
  if (/^(0|false|no|off)$/i.test(text)) return false;
  throw usage(`${row.env} must be 1 or 0, not '${text}'`, undefined);
}

/** What `flk --help`, or `flk COMMAND --help`, prints; no newline at the end. */
export function helpText(command: CommandName | undefined): string {
  if (command === undefined) {
    const width = Math.max(...Object.keys(commands).map((name) => name.length));
    return [
      'flk: pin anything, build it reproducibly, share it',
      '',
      'Usage: flk COMMAND [ARGUMENTS] [OPTIONS]',
      '',
      ...Object.entries(commands).map(([name, row]) => `  ${name.padEnd(width)}  ${row.summary}`),
      '',
      'FLAKE is a reference such as ., ./dir, git+https://host/repo?ref=main; the default is this folder.',
      'flk COMMAND --help shows a command’s options. flk --version shows the version.',
    ].join('\n');
  }
  const row: CommandRow = commands[command];
  return [
    row.summary,
    '',
    `Usage: flk ${command} ${row.args} [OPTIONS]`,
    '',
    row.details,
    '',
    'Options:',
    ...optionLines(row.options),
  ].join('\n');
}

function optionLines(names: readonly OptionName[]): string[] {
  const lines = names.map((name) => ({ left: `  ${spelling(name)}`, row: options[name] as OptionRow }));
  const width = Math.max(...lines.map(({ left }) => left.length));
  return lines.map(
    ({ left, row }) => `${left.padEnd(width)}  ${row.help}${row.env === undefined ? '' : ` [$${row.env}]`}`,
  );
}

/** `-o, --out-link LINK`. */
export function spelling(name: OptionName): string {
  const row: OptionRow = options[name];
  const short = row.short === undefined ? '' : `-${row.short}, `;
  return `${short}--${row.negatable ? '[no-]' : ''}${name}${row.value === undefined ? '' : ` ${row.value}`}`;
}
