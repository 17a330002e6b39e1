/**
 * What an installed Nix has been told: nix.conf of the machine and of the person, then NIX_CONFIG, as nix.conf(5) describes them.
 * Only names and words: what they mean to flk, settings.ts decides.
 */
import { dirname, isAbsolute, join, resolve } from 'node:path';
import type { Range, SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { readFileIfExists } from '../base/files.ts';

/** One line `NAME = VALUE`. */
export interface NixConfLine {
  readonly name: string;
  /** Words with one space between them; empty where nothing follows `=`. */
  readonly value: string;
  readonly file: SourceFile;
  /** The value's place, the whole line where there is none. */
  readonly range: Range;
}

/** Nobody writes as many; a file that includes itself would not end. */
const maxIncludes = 20;
const maxSize = 2 ** 20;

/** Every line that counts, in the order in which Nix applies them: a later one of the same name wins. */
export async function readNixConf(env: NodeJS.ProcessEnv, home: string): Promise<NixConfLine[]> {
  const lines: NixConfLine[] = [];
  for (const path of nixConfFiles(env, home)) {
    const text = await readable(path);
    if (text !== undefined) await readLines({ path, text }, dirname(path), 0, lines);
  }
  if (env.NIX_CONFIG !== undefined)
    await readLines({ path: 'NIX_CONFIG', text: env.NIX_CONFIG }, process.cwd(), 0, lines);
  return lines;
}

function nixConfFiles(env: NodeJS.ProcessEnv, home: string): string[] {
  const system = join(env.NIX_CONF_DIR || '/etc/nix', 'nix.conf');
  if (env.NIX_USER_CONF_FILES !== undefined)
    return [system, ...env.NIX_USER_CONF_FILES.split(':').filter(isAbsolute).reverse()];
  const xdg = env.XDG_CONFIG_HOME;
  const own = env.NIX_CONFIG_HOME || join(xdg && isAbsolute(xdg) ? xdg : join(home, '.config'), 'nix');
  const shared = (env.XDG_CONFIG_DIRS || '/etc/xdg').split(':').filter(isAbsolute);
  const folders = [own, ...shared.map((folder) => join(folder, 'nix'))];
  return [system, ...folders.reverse().map((folder) => join(folder, 'nix.conf'))];
}

/** Undefined also for a file that is not ours to read: Nix goes on without it, too. */
async function readable(path: string): Promise<string | undefined> {
  try {
    return (await readFileIfExists(path, maxSize))?.toString();
  } catch (error) {
    if (error instanceof FlkError && error.code === 'FLK_FILE_UNREADABLE') return undefined;
    throw error;
  }
}

async function readLines(
  file: SourceFile,
  folder: string,
  depth: number,
  lines: NixConfLine[],
): Promise<void> {
  let start = 0;
  for (const line of file.text.split('\n')) {
    const code = line.replace(/#.*$/s, '');
    const include = /^\s*(!?)include\s+(\S+)\s*$/.exec(code);
    const setting = /^\s*(\S+)\s*=(?=\s|$)\s*(.*?)\s*$/s.exec(code);
    if (include) {
      const path = resolve(folder, include[2]!);
      const text = depth < maxIncludes ? await readable(path) : undefined;
      if (text !== undefined) await readLines({ path, text }, dirname(path), depth + 1, lines);
      else if (include[1] === '')
        throw new FlkError('FLK_SETTINGS_INVALID', `${file.path} includes ${path}, which cannot be read`, {
          hint: 'write !include where the file may be missing',
        });
    } else if (setting) {
      const value = setting[2]!;
      const at = value === '' ? start : start + code.lastIndexOf(value);
      lines.push({
        name: setting[1]!,
        value: value.replace(/\s+/g, ' '),
        file,
        range: { start: at, end: at + (value || code).length },
      });
    }
    start += line.length + 1;
  }
}
