/** Random expressions, and the names that are bound around every file, as Nix and flk read them. */
import { writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';
import { parseNix } from '../../src/nix/parser.ts';
import { globalNames } from '../../src/nix/variables.ts';
import { nix, nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { printNix } from '../support/nix-print.ts';
import { nixSource } from '../support/nix-source.ts';
import { temporaryFolder } from '../support/temp.ts';

const refused = 'refused';

function asFlkReads(text: string, folder: string): string {
  try {
    return printNix(parseNix({ path: 'x.nix', text }), { folder, home: homedir() });
  } catch (error) {
    if (error instanceof FlkError && error.code === 'FLK_NIX_SYNTAX') return refused;
    throw error;
  }
}

/** Nix reads files until one is faulty; then it is called again for the rest. */
async function asNixReads(files: readonly string[]): Promise<string[]> {
  const read: string[] = [];
  while (read.length < files.length) {
    const { stdout, stderr } = await nixCommand('nix-instantiate', ['--parse', ...files.slice(read.length)]);
    read.push(...stdout.split('\n').slice(0, -1));
    if (read.length === files.length) break;
    expect(stderr).toContain('error:');
    read.push(refused);
  }
  return read;
}

describe.skipIf(!nixAvailable())(`the Nix language ${nixReason}`, () => {
  it('is read as Nix reads it', async () => {
    const folder = temporaryFolder();
    // Below a with, Nix does not look for names that are not bound.
    const texts = fc.sample(nixSource, { numRuns: 400, seed: 34 }).map((text) => `with { }; (${text}\n)`);
    const files = texts.map((text, index) => {
      const file = join(folder, `${index}.nix`);
      writeFileSync(file, text);
      return file;
    });
    const nixReads = await asNixReads(files);
    for (const [index, text] of texts.entries())
      expect([text, asFlkReads(text, folder)]).toEqual([text, nixReads[index]]);
    expect(nixReads.filter((read) => read !== refused).length).toBeGreaterThan(250);
    expect(nixReads).toContain(refused);
  });

  it('has the same names around every file', async () => {
    const { stdout } = await nix(['eval', '--json', '--expr', 'builtins.attrNames builtins']);
    const names = JSON.parse(stdout) as string[];
    const all = await nix(['eval', '--expr', `builtins.length [ ${[...globalNames].join(' ')} ]`]);
    expect(all.stdout.trim()).toBe(String(globalNames.size));
    // In none of both forms unknown to flk, except what pure evaluation leaves out.
    const unknown = names.filter((name) => !globalNames.has(name) && !globalNames.has(`__${name}`));
    expect(unknown).toEqual([]);
  });
});
