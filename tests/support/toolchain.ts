/** A toolchain out of this machine's own programs: pinned like any other, so that engines which know no host can take it. */
import { spawnSync } from 'node:child_process';
import { readFileSync, realpathSync } from 'node:fs';
import { directory, file, type Node } from './trees.ts';

/** A program of this machine and the libraries that it loads, by path. */
function withLibraries(program: string): string[] {
  const place = spawnSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).stdout.trim();
  const { stdout } = spawnSync('ldd', [place], { encoding: 'utf8' });
  return [place, ...[...(stdout ?? '').matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!)];
}

/** Where each lies in the toolchain → where on this machine: `bin/PROGRAM`, and libraries at their own places. */
export function programFiles(programs: readonly string[]): Map<string, string> {
  return new Map(
    programs.flatMap((program) =>
      withLibraries(program).map((path, index): [string, string] => [
        index === 0 ? `bin/${program}` : path.slice(1),
        realpathSync(path),
      ]),
    ),
  );
}

export type Folder = Extract<Node, { type: 'directory' }>;

/** The tree with these files, all executable: place in it → place on this machine. */
export function treeOfFiles(files: ReadonlyMap<string, string>): Folder {
  const root = directory() as Folder;
  for (const [path, place] of files) {
    let at = root;
    const names = path.split('/');
    for (const name of names.slice(0, -1)) {
      if (!at.entries.has(name)) (at.entries as Map<string, Node>).set(name, directory());
      at = at.entries.get(name) as Folder;
    }
    (at.entries as Map<string, Node>).set(names.at(-1)!, file(readFileSync(place), true));
  }
  return root;
}
