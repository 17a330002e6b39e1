import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { GitRef } from '../../../src/flake/flake-ref.ts';
import { hashTree } from '../../../src/formats/nar.ts';
import { GitSource } from '../../../src/sources/git.ts';
import { errorOf } from '../../support/errors.ts';
import { git } from '../../support/repositories.ts';
import { type SshServer, sshAvailable, sshReason, sshServer } from '../../support/ssh-server.ts';
import { temporaryFolder } from '../../support/temp.ts';

describe.skipIf(!sshAvailable)(`over ssh ${sshReason}`, () => {
  let server: SshServer;
  const folder = temporaryFolder();
  const path = join(folder, 'repo');

  beforeAll(async () => {
    server = await sshServer();
    mkdirSync(path);
    git(path, 'init', '-q');
    for (const content of ['one', 'two', 'three']) {
      writeFileSync(join(path, 'file'), content);
      git(path, 'add', '-A');
      git(path, 'commit', '-q', '-m', content);
    }
    git(path, 'tag', '-a', 'v1', '-m', 'v1', 'HEAD~1');
  });

  afterEach(() => vi.unstubAllEnvs());

  const ref = (): GitRef => ({ type: 'git', url: `${server.base}${path}` });
  const source = (): GitSource =>
    new GitSource({
      cacheFolder: join(temporaryFolder(), 'cache'),
      reporter: { emit: () => {} },
      retryDelay: 1,
    });
  const failure = async (command: string, given: GitRef = ref()) => {
    vi.stubEnv('GIT_SSH_COMMAND', command);
    return await errorOf(source().fetch(given));
  };

  it('locks and fetches what is locked and fetched from the disk', async () => {
    vi.stubEnv('GIT_SSH_COMMAND', server.command);
    for (const query of [{}, { ref: 'main' }, { ref: 'refs/tags/v1' }, { ref: 'main', shallow: true }]) {
      const { locked, tree } = await source().fetch({ ...ref(), ...query });
      const here = await source().fetch({ type: 'git', url: `file://${path}`, ...query });
      expect(locked).toEqual({ ...here.locked, url: ref().url });
      expect((await hashTree(tree)).narHash).toBe(tree.narHash);
    }
  });

  it('gives tags', async () => {
    vi.stubEnv('GIT_SSH_COMMAND', server.command);
    expect(await source().tags(ref())).toEqual([{ name: 'v1', rev: git(path, 'rev-parse', 'HEAD~1') }]);
  });

  it('says that the server does not know the key', async () => {
    expect(await failure(server.strange)).toMatchObject({
      code: 'FLK_SSH_AUTH',
      hint: expect.stringContaining('ssh-add'),
    });
  });

  it('says that the host has another key than the one that is known', async () => {
    const error = await failure(server.deceived);
    expect(error).toMatchObject({ code: 'FLK_SSH_HOST_KEY', hint: expect.stringContaining('ssh-keygen -R') });
    expect(error.message).toContain('another host key');
    expect(error.hint).toContain(String(server.port));
  });

  it('says that the host is not known yet', async () => {
    const error = await failure(server.unacquainted);
    expect(error).toMatchObject({ code: 'FLK_SSH_HOST_KEY', hint: expect.stringContaining('ssh-keyscan') });
    expect(error.message).toContain('not known');
  });

  it('says that there is no repository', async () => {
    expect(await failure(server.command, { ...ref(), url: `${server.base}/nowhere` })).toMatchObject({
      code: 'FLK_GIT_REPO_MISSING',
    });
  });

  it('says that nobody listens', async () => {
    expect(await failure(server.command, { ...ref(), url: 'ssh://git@127.0.0.1:1/x' })).toMatchObject({
      code: 'FLK_NETWORK',
    });
  });

  it('never asks: without a command of the person’s own, ssh is told so', async () => {
    const bin = temporaryFolder();
    const told = join(bin, 'told');
    writeFileSync(join(bin, 'ssh'), `#!/bin/sh\necho "$@" >> ${told}\nexit 255\n`, { mode: 0o755 });
    vi.stubEnv('PATH', `${bin}:${process.env.PATH}`);
    vi.stubEnv('GIT_SSH_COMMAND', undefined);
    vi.stubEnv('GIT_SSH', undefined);
    await errorOf(source().fetch(ref()));
    expect(git(bin, 'grep', '--no-index', '-c', 'BatchMode=yes', 'told')).toMatch(/^told:[1-9]/);
  });

  it('takes no host, user or path for an option', async () => {
    vi.stubEnv('GIT_SSH_COMMAND', server.command);
    for (const url of ['ssh://-oProxyCommand=x/y', 'ssh://-l@127.0.0.1/x', 'ssh://127.0.0.1/-x'])
      expect((await errorOf(source().fetch({ type: 'git', url }))).code, url).toBe('FLK_REF_INVALID');
  });
});
