import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { servedRepositories } from '../support/git-server.ts';
import { temporaryFolder } from '../support/temp.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
let served: Awaited<ReturnType<typeof servedRepositories>>;
beforeAll(async () => {
  served = await servedRepositories(['base', 'left']);
});

/** Somebody else's package, with flk installed. */
function project(): string {
  const folder = temporaryFolder();
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(root, join(folder, 'node_modules/flk'));
  symlinkSync(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  return folder;
}

/** The example in src/index.ts, as it stands there. */
function example(): string {
  const text = readFileSync(join(root, 'src/index.ts'), 'utf8');
  const lines = text.slice(text.indexOf('@example'), text.indexOf('*/')).split('\n').slice(1);
  return lines.map((line) => line.replace(/^ \* ?/, '')).join('\n');
}

describe("import('flk')", () => {
  it('runs the example of its documentation', () => {
    const folder = project();
    writeFileSync(join(folder, 'flake.yaml'), `inputs:\n  left: git+${served.server.base}/left\n`);
    writeFileSync(join(folder, 'example.js'), example().replace("'/tmp/flk'", "'./cache'"));
    const out = runAsync(folder);
    return out.then((text) => {
      const lock = JSON.parse(text) as { nodes: object };
      expect(Object.keys(lock.nodes).sort()).toEqual(['base', 'left', 'root']);
    });
  });

  it('has types that a strict program compiles against', () => {
    const folder = project();
    writeFileSync(join(folder, 'example.ts'), `${example()}\nexport const name: string = flake.dir;\n`);
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const args = [
      tsc,
      '--noEmit',
      '--strict',
      '--exactOptionalPropertyTypes',
      '--module',
      'nodenext',
      '--target',
      'es2023',
      '--types',
      'node',
    ];
    expect(execFileSync(process.execPath, [...args, 'example.ts'], { cwd: folder, encoding: 'utf8' })).toBe(
      '',
    );
  });
});

/** The server answers in this very process, so it must not be blocked. */
async function runAsync(folder: string): Promise<string> {
  const { execFile } = await import('node:child_process');
  return await new Promise((resolve, reject) => {
    execFile(process.execPath, ['example.js'], { cwd: folder, encoding: 'utf8' }, (error, stdout, stderr) =>
      error ? reject(new Error(stderr)) : resolve(stdout),
    );
  });
}
