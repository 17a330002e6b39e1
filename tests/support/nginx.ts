/** nginx from the engines root in front of a folder: a server that many caches stand behind, and that is not ours. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { freePlace } from './addresses.ts';
import { temporaryFolder } from './temp.ts';

const enginesRoot = process.env.FLK_ENGINES ?? '/opt/flk-engines';
const runner = fileURLToPath(new URL('../engines/nix', import.meta.url));

export const nginxAvailable = (): boolean =>
  existsSync(`${enginesRoot}/.complete`) && existsSync(`${enginesRoot}/usr/sbin/nginx`);

/** For the title of a group of tests that needs it. */
export const nginxReason = nginxAvailable()
  ? '(with nginx)'
  : '(skipped: no nginx, tests/engines/install gives one)';

export interface Nginx {
  readonly url: string;
  /** The lines of its log: method, address, status, range. */
  requests(): string[];
}

/** Serves a folder until the test ends. It takes PUTs, too, as WebDAV has them. */
export async function startNginx(folder: string): Promise<Nginx> {
  const place = temporaryFolder();
  mkdirSync(join(place, 'body'));
  const { host, port } = await freePlace();
  const log = join(place, 'access.log');
  const file = join(place, 'nginx.conf');
  writeFileSync(
    file,
    `daemon off;
user root root;
worker_processes 1;
pid ${place}/pid;
error_log ${place}/error.log;
events { worker_connections 256; }
http {
  log_format short '$request_method $uri $status $http_range';
  access_log ${log} short;
  client_body_temp_path ${place}/body;
  client_max_body_size 0;
  types { text/x-nix-narinfo narinfo; application/x-nix-nar nar xz zst; }
  server {
    listen ${host}:${port};
    location / {
      root ${folder};
      dav_methods PUT;
      create_full_put_path on;
    }
  }
}
`,
  );
  const child = spawn(runner, ['-c', file, '-p', place], {
    env: { ...process.env, FLK_ENGINES: enginesRoot, NIX_COMMAND: 'nginx' },
    stdio: 'ignore',
  });
  const over = new Promise((done) => child.once('exit', done));
  onTestFinished(async () => {
    child.kill('SIGTERM');
    await over;
  });
  const url = `http://${host}:${port}`;
  for (let tries = 0; ; tries++) {
    const answers = await fetch(url).then(
      () => true,
      () => false,
    );
    if (answers) break;
    if (tries === 100)
      throw new Error(`nginx does not answer: ${readFileSync(join(place, 'error.log'), 'utf8')}`);
    await sleep(100);
  }
  return { url, requests: () => readFileSync(log, 'utf8').trim().split('\n').slice(1) };
}
