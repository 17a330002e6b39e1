/** Programs whose input or output is bytes, not text: flk in a world of its own, and the real Nix's. */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CliWorld } from './cli.ts';
import { nixCommand } from './nix.ts';
import { temporaryFolder } from './temp.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));

export interface ByteResult {
  readonly status: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs flk with bytes on stdin, and takes bytes from its stdout. */
export function flkBytes(world: CliWorld, args: readonly string[], input?: Buffer): Promise<ByteResult> {
  const child = spawn(process.execPath, [program, ...args], { cwd: world.folder, env: { ...world.env } });
  const chunks: Buffer[] = [];
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => void chunks.push(chunk));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  // flk may end before it has read all of it.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout: Buffer.concat(chunks), stderr }));
  });
}

/** Runs a shell line beside the real Nix, with a file of these bytes as `$IN`; gives what it wrote to `$OUT`. */
export async function nixBytes(line: string, input: Buffer = Buffer.alloc(0)): Promise<ByteResult> {
  const folder = temporaryFolder();
  const [from, to] = [join(folder, 'in'), join(folder, 'out')];
  writeFileSync(from, input);
  writeFileSync(to, '');
  const { status, stderr } = await nixCommand('bash', ['-c', `IN=${from} OUT=${to}; ${line}`]);
  return { status, stdout: readFileSync(to), stderr };
}
