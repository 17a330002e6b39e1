/** A real server of the Remote Execution API, BuildBox, where `tests/engines/install` has put one. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { silent } from '../../src/base/events.ts';
import type { Engine } from '../../src/build/engines/engine.ts';
import { type RemoteEngineOptions, remoteEngine } from '../../src/build/engines/remote/remote.ts';
import { temporaryFolder } from './temp.ts';

const enginesRoot = process.env.FLK_ENGINES ?? '/opt/flk-engines';
const runner = fileURLToPath(new URL('../engines/reapi', import.meta.url));

/** Why there is none; undefined where there is. */
export const noBuildBox = existsSync(`${enginesRoot}/usr/bin/buildbox-casd`)
  ? undefined
  : 'no BuildBox, tests/engines/install gives one';

export interface BuildBox {
  readonly address: string;
  /** Kills it, as a crash would. */
  kill(): Promise<void>;
  /** Starts it again, at the same place, with what it kept. */
  start(): Promise<void>;
}

/** Starts a server that runs a few actions at a time, and waits for it. */
export async function buildBox(folder = temporaryFolder()): Promise<BuildBox> {
  const port = await freePort();
  const address = `grpc://127.0.0.1:${port}`;
  let server: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    server = spawn(runner, [`127.0.0.1:${port}`, folder], {
      env: { ...process.env, FLK_ENGINES: enginesRoot, FLK_REAPI_JOBS: '4' },
      stdio: 'ignore',
    });
    await untilReady(address);
  };
  await start();
  return {
    address,
    start,
    kill: async () => {
      const ended = new Promise((resolve) => server?.once('exit', resolve));
      server?.kill('SIGKILL');
      await ended;
    },
  };
}

async function untilReady(address: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    const engine = testEngine({ address });
    try {
      await engine.probe();
      return;
    } catch (error) {
      if (tries > 50) throw error;
      await sleep(100);
    } finally {
      await engine.close();
    }
  }
}

/** An engine over no store, to be asked what it would do; with one, an engine like any other. */
export function testEngine(options: Partial<RemoteEngineOptions> & { readonly address: string }): Engine {
  return remoteEngine({ store: noStore, reporter: silent, ...options });
}

const refuse = (): never => {
  throw new Error('there is no store');
};
const noStore: RemoteEngineOptions['store'] = {
  physical: refuse,
  query: refuse,
  stage: refuse,
  memo: refuse,
  setMemo: refuse,
};

/** A port of loopback that nobody listens at. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
