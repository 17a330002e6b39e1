/** Sizes and ages on the command line. */
import { FlkError } from '../base/errors.ts';

/** `500M`, `10G`: bytes, or with a letter KiB, MiB, …, as Nix counts. Throws FLK_USAGE, naming the option. */
export function parseSize(option: string, text: string): number {
  const [, digits, unit = ''] = /^(\d{1,12})([KMGT]?)$/i.exec(text) ?? [];
  const bytes = Number(digits) * 1024 ** ' KMGT'.indexOf(unit.toUpperCase() || ' ');
  if (digits !== undefined && Number.isSafeInteger(bytes)) return bytes;
  throw new FlkError('FLK_USAGE', `--${option} needs a size, not '${text}'`, {
    hint: `--${option} 10G, or 500M`,
  });
}

const milliseconds = { h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 };

/** `12h`, `30d`, `2w`, as milliseconds. Throws FLK_USAGE, naming the option. */
export function parseAge(option: string, text: string): number {
  const [, digits, unit] = /^(\d{1,6})([hdw])$/.exec(text) ?? [];
  if (digits !== undefined && (unit === 'h' || unit === 'd' || unit === 'w'))
    return Number(digits) * milliseconds[unit];
  throw new FlkError('FLK_USAGE', `--${option} needs an age, not '${text}'`, {
    hint: `--${option} 30d, 12h or 2w`,
  });
}
