/** Commands that have commands: `flk profile install`. Each takes some of the options that the table lists for all of them. */
import { nearest } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { spelling } from './command-line.ts';
import { commands } from './command-table.ts';
import type { Context } from './context.ts';
import type { OptionName } from './options.ts';

export interface SubCommand {
  /** The arguments as errors show them. */
  readonly args: string;
  readonly min: number;
  /** Default: any number. */
  readonly max?: number;
  /** Besides those that all of them take. */
  readonly options: readonly OptionName[];
  readonly run: (context: Context, args: readonly string[]) => Promise<number>;
}

/**
 * Runs the one that the command's first argument names. `everywhere`: options that all of them take. Throws FLK_USAGE for a name that
 * there is not, too few or too many arguments, and options of others.
 */
export async function runSubCommand(
  context: Context,
  table: Readonly<Record<string, SubCommand>>,
  everywhere: readonly OptionName[],
): Promise<number> {
  const { command } = context;
  const [name = '', ...args] = context.args;
  const row = Object.hasOwn(table, name) ? table[name] : undefined;
  if (row === undefined) {
    const names = Object.keys(table);
    throw new FlkError('FLK_USAGE', `there is no flk ${command} ${name}`, {
      hint: `flk ${command} ${nearest(name, names) ?? names.join(', ')}`,
    });
  }
  if (args.length < row.min || args.length > (row.max ?? Number.POSITIVE_INFINITY))
    throw new FlkError('FLK_USAGE', `flk ${command} ${name} takes ${row.args || 'nothing more'}`, {
      hint: `flk help ${command} shows how`,
    });
  for (const option of commands[command].options) {
    const value = context.flags[option];
    const isGiven = Array.isArray(value) ? value.length > 0 : value !== undefined && value !== false;
    if (!isGiven || row.options.includes(option) || everywhere.includes(option)) continue;
    throw new FlkError('FLK_USAGE', `flk ${command} ${name} has no option ${spelling(option)}`, {
      hint:
        row.options.length === 0
          ? 'it has none of its own'
          : `it has ${row.options.map(spelling).join(', ')}`,
    });
  }
  return await row.run(context, args);
}
