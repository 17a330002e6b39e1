/**
 * The same repositories at one forge, locked by Nix and by flk. The forge stands on loopback behind TLS, and both are told to trust
 * its certificate.
 */
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/base/events.ts';
import { runCommandLine } from '../../src/cli/main.ts';
import { parseFlakeRef, refToAttributes } from '../../src/flake/flake-ref.ts';
import { Credentials } from '../../src/sources/credentials.ts';
import { Sources } from '../../src/sources/source.ts';
import { type ForgeServer, forgeReason, forgeServer, noForgeServer } from '../support/forge-server.ts';
import { nix, nixAvailable, nixReason } from '../support/nix.ts';
import { git } from '../support/repositories.ts';
import { temporaryFolder } from '../support/temp.ts';

const title = [nixReason, forgeReason].filter((part) => part !== '').join(' ');

describe.skipIf(!nixAvailable() || noForgeServer !== undefined)(`one forge, two lockers ${title}`, () => {
  const folder = temporaryFolder();
  let forge: ForgeServer;
  let rev: string;

  beforeAll(async () => {
    forge = await forgeServer(folder);
    const { host } = forge;
    const names = ['acme/tool', 'acme/group/lib', '~acme/data'];
    for (const name of names) rev = publish(folder, name);
    publish(folder, 'acme/app', {
      'flake.nix': `{
        inputs.tool.url = "github:acme/tool?host=${host}";
        inputs.lib = { url = "gitlab:acme%2Fgroup/lib/side?host=${host}"; flake = false; };
        outputs = { self, tool, lib }: { };
      }`,
    });
  });

  /** Nix's `locked` for each of the references, by one `nix flake lock`. */
  async function byNix(refs: readonly string[], settings = ''): Promise<unknown[]> {
    const root = temporaryFolder();
    const inputs = refs.map((url, i) => `inputs.i${i} = { url = "${url}"; flake = false; };`);
    writeFileSync(join(root, 'flake.nix'), `{ ${inputs.join('\n')} outputs = _: { }; }`);
    const home = temporaryFolder();
    const { status, stderr } = await nix(['flake', 'lock', `path:${root}`], {
      env: {
        HOME: home,
        XDG_CACHE_HOME: join(home, 'cache'),
        NIX_CONFIG_EXTRA: `ssl-cert-file = ${forge.certificate}
${settings}`,
      },
    });
    expect(status, stderr).toBe(0);
    const lock = JSON.parse(readFileSync(join(root, 'flake.lock'), 'utf8')) as {
      nodes: Record<string, { locked: unknown }>;
    };
    return refs.map((_, i) => lock.nodes[`i${i}`]!.locked);
  }

  async function byFlk(
    refs: readonly string[],
    { cacheFolder = temporaryFolder(), token }: { cacheFolder?: string; token?: string } = {},
  ): Promise<unknown[]> {
    const accessTokens = new Map(token === undefined ? [] : [[forge.host, token]]);
    const source = new Sources({
      cacheFolder,
      reporter: silent,
      caFile: forge.certificate,
      credentials: new Credentials({ accessTokens, env: {}, reporter: silent, netrcFile: '/nonexistent' }),
    });
    return await Promise.all(
      refs.map(async (text) => refToAttributes((await source.fetch(parseFlakeRef(text))).locked)),
    );
  }

  it('has the same answers for every kind of forge and ref', async () => {
    const { host } = forge;
    const refs = [
      `github:acme/tool?host=${host}`,
      `github:acme/tool/side?host=${host}`,
      `github:acme/tool/v1?host=${host}`,
      `github:acme/tool/feature/x?host=${host}`,
      `github:acme/tool/refs/heads/side?host=${host}`,
      `github:acme/tool/${rev}?host=${host}`,
      `github:acme/tool?dir=sub&host=${host}`,
      `gitlab:acme%2Fgroup/lib?host=${host}`,
      `gitlab:acme%2Fgroup/lib/v1?host=${host}`,
      `gitlab:acme/tool/side?host=${host}`,
      `sourcehut:~acme/data?host=${host}`,
      `sourcehut:~acme/data/side?host=${host}`,
      `sourcehut:~acme/data/v1?host=${host}`,
    ];
    const flk = await byFlk(refs);
    expect(forge.log.filter((line) => /\/commits|\/HEAD$|\/info\/refs$/.test(line))).toEqual([]);
    expect(flk).toEqual(await byNix(refs));
  });

  it('fills the same lock, byte for byte, with what its flakes name in turn', async () => {
    const { host, certificate } = forge;
    // By Git another revision than by archive: of one revision, Nix takes the hash of whichever it has met before for the other's
    // too, although export-ignore makes them differ.
    const manifest = (branch: string): string => `{
      inputs.app.url = "github:acme/app?host=${host}";
      inputs.app.inputs.lib.follows = "data";
      inputs.data = { url = "sourcehut:~acme/data/${branch}?host=${host}"; flake = false; };
      inputs.sub.url = "gitlab:acme/tool/${branch}?dir=sub&host=${host}";
      inputs.git.url = "git+https://${host}/acme/tool.git?ref=feature/x";
      inputs.archive.url = "https://${host}/acme/tool/archive/${rev}.tar.gz";
      outputs = _: { };
    }`;
    const home = temporaryFolder();
    const settings = `ssl-cert-file = ${certificate}`;
    const env: NodeJS.ProcessEnv = {
      PATH: process.env.PATH,
      HOME: home,
      XDG_CACHE_HOME: join(home, 'cache'),
      NIX_CONFIG: settings,
      NIX_CONFIG_EXTRA: settings,
      GIT_SSL_CAINFO: certificate,
      NIX_SSL_CERT_FILE: certificate,
    };
    const [nixRoot, flkRoot] = [temporaryFolder(), temporaryFolder()];
    for (const branch of ['main', 'side']) {
      for (const root of [nixRoot, flkRoot]) writeFileSync(join(root, 'flake.nix'), manifest(branch));
      const byNix = await nix(['flake', 'lock', `path:${nixRoot}`], { env });
      expect(byNix.status, byNix.stderr).toBe(0);
      const said: string[] = [];
      const terminal = { write: (text: string) => said.push(text) };
      const world = { env, cwd: home, stdout: terminal, stderr: terminal, handOverSignals: () => {} };
      const status = await runCommandLine(['lock', `path:${flkRoot}`], world, new AbortController().signal);
      expect(status, said.join('')).toBe(0);
      const lockOf = (root: string): string => readFileSync(join(root, 'flake.lock'), 'utf8');
      expect(lockOf(flkRoot)).toBe(lockOf(nixRoot));
      expect(lockOf(flkRoot)).toContain(`"host": "${host}"`);
    }
  });

  it('is asked once whether a branch has moved, and not at all for what is locked', async () => {
    const cacheFolder = temporaryFolder();
    const branch = `github:acme/tool/side?host=${forge.host}`;
    const [first] = await byFlk([branch], { cacheFolder });
    forge.log.length = 0;
    expect(await byFlk([branch], { cacheFolder })).toEqual([first]);
    expect(forge.log).toEqual(['POST /acme/tool.git/git-upload-pack']);
    forge.log.length = 0;
    const { rev: locked } = first as { rev: string };
    expect(await byFlk([`github:acme/tool/${locked}?host=${forge.host}`], { cacheFolder })).toEqual([first]);
    expect(forge.log).toEqual([]);
  });

  it.each([
    ['github', 'ghp_token', (forge: ForgeServer) => `github:acme/tool/side?host=${forge.host}`],
    ['gitlab', 'PAT:glpat-token', (forge: ForgeServer) => `gitlab:acme/tool/side?host=${forge.host}`],
    ['gitlab by OAuth2', 'OAuth2:token', (forge: ForgeServer) => `gitlab:acme/tool/side?host=${forge.host}`],
  ])('lets both in to a private repository of a %s with the same token', async (_, token, refOf) => {
    const bare = token.replace(/^.*:/, '');
    forge.intercept = ({ url = '', headers }) => {
      const basic = Buffer.from(headers.authorization?.replace('Basic ', '') ?? '', 'base64').toString();
      if (/git-upload-pack/.test(url)) return basic.endsWith(`:${bare}`) ? undefined : { status: 401 };
      const shown = headers['private-token'] ?? headers.authorization ?? '';
      return [bare, `token ${bare}`, `Bearer ${bare}`].includes(String(shown)) ? undefined : { status: 404 };
    };
    const ref = refOf(forge);
    const flk = await byFlk([ref], { token });
    expect(flk).toEqual(await byNix([ref], `access-tokens = ${forge.host}=${token}`));
    const [refused] = await Promise.allSettled([byFlk([ref])]);
    expect(refused).toMatchObject({ status: 'rejected', reason: { code: 'FLK_GIT_REPO_MISSING' } });
    forge.intercept = undefined;
  });
});

/** A bare repository with what archives treat in their own way: links, execute bits, export-ignore, export-subst, empty names. */
function publish(folder: string, name: string, more: Readonly<Record<string, string>> = {}): string {
  const work = temporaryFolder();
  git(work, 'init', '-q');
  mkdirSync(join(work, 'sub'));
  const files = {
    'flake.nix': '{ outputs = _: { }; }',
    'sub/flake.nix': '{ outputs = _: { }; }',
    run: '#!/bin/sh\n',
    secret: 'not exported\n',
    version: '$Format:%H$\n',
    'ünïcode name': 'x',
    '.gitattributes': 'secret export-ignore\nversion export-subst\n',
    [`${'long/'.repeat(30)}file`]: 'deep',
    ...more,
  };
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(work, path, '..'), { recursive: true });
    writeFileSync(join(work, path), text);
  }
  chmodSync(join(work, 'run'), 0o755);
  symlinkSync('sub/flake.nix', join(work, 'link'));
  git(work, 'add', '.');
  git(work, 'commit', '-q', '-m', 'first');
  git(work, 'tag', '-a', 'v1', '-m', 'one');
  for (const branch of ['side', 'feature/x']) {
    git(work, 'checkout', '-q', '-b', branch);
    writeFileSync(join(work, 'run'), `#!/bin/sh\n# ${branch}\n`);
    git(work, 'commit', '-q', '-a', '-m', branch);
  }
  git(work, 'checkout', '-q', 'main');
  const bare = join(folder, `${name}.git`);
  mkdirSync(join(bare, '..'), { recursive: true });
  git(work, 'clone', '-q', '--bare', '.', bare);
  return git(work, 'rev-parse', 'HEAD');
}
