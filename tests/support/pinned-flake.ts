/** A flake whose packages are built with a pinned toolchain, out of this machine's own programs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { hashTree } from '../../src/formats/nar.ts';
import { tarOf } from './archives.ts';
import { programFiles, treeOfFiles } from './toolchain.ts';
import { treeFrom } from './trees.ts';

/** Writes flake.yaml and the archive that its toolchain is fetched from. `word` goes into what is built: nobody has that yet. */
export async function writePinnedFlake(folder: string, word: string): Promise<void> {
  const files = programFiles(['sh', 'mkdir', 'cp', 'chmod', 'rm', 'cat']);
  const entries = [...files].map(([path, place]) => ({ path, contents: readFileSync(place), mode: 0o755 }));
  const archive = join(folder, 'tools.tar');
  writeFileSync(archive, tarOf(...entries));
  const { narHash } = await hashTree(treeFrom(treeOfFiles(files)));
  writeFileSync(
    join(folder, 'flake.yaml'),
    `packages:
  base: { fetch: { url: "${pathToFileURL(archive).href}", hash: "${narHash}", unpack: true, stripRoot: false } }
  lib: { toolchain: "#base", installPhase: "echo ${word} > $out" }
  default: { toolchain: "#base", buildInputs: ["#lib"], installPhase: "echo building; cat {{#lib}} > $out" }
  host: { toolchain: host, installPhase: "echo ${word} > $out" }
  broken: { toolchain: "#base", installPhase: "echo so it goes; exit 3" }
`,
  );
}
