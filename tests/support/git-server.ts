/** A Git server on loopback that ends with the test file; see test-repos/serve.mjs. */
import { afterAll } from 'vitest';
import { type GitServer, serve } from '../../test-repos/serve.mjs';
import { type BuildOptions, buildRepositories } from './repositories.ts';
import { temporaryFolder } from './temp.ts';

export type { GitServer };

/** Serves `folder` over smart HTTP until the test file ends. Call it in a hook or a test. */
export async function gitServer(folder: string, options: { delayMs?: number } = {}): Promise<GitServer> {
  const server = await serve(folder, options);
  open.add(server);
  return server;
}

/** Builds the named recipes (default: all) so that their manifests name this very server, and serves them. */
export async function servedRepositories(
  names?: readonly string[],
  options: Omit<BuildOptions, 'base'> & { delayMs?: number } = {},
): Promise<{ server: GitServer; folder: string; rebuild(phase: number): void }> {
  const folder = temporaryFolder();
  const server = await gitServer(folder, options.delayMs === undefined ? {} : { delayMs: options.delayMs });
  const rebuild = (phase: number): void => {
    buildRepositories(folder, names, { ...options, base: server.base, phase });
  };
  rebuild(options.phase ?? Number.POSITIVE_INFINITY);
  return { server, folder, rebuild };
}

const open = new Set<GitServer>();

afterAll(async () => {
  await Promise.all([...open].map((server) => server.close()));
  open.clear();
});
