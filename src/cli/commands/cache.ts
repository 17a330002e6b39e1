/** `flk cache keygen|push|pull|info|serve`: binary caches, as Nix has them. */
import { text } from 'node:stream/consumers';
import { FlkError } from '../../base/errors.ts';
import {
  generateSecretKey,
  parseSecretKey,
  printPublicKey,
  printSecretKey,
  publicKeyOf,
} from '../../formats/signature.ts';
import type { StorePath } from '../../formats/store-path.ts';
import { packings } from '../../store/caches/cache.ts';
import { openCache, openSubstituterOf } from '../caches.ts';
import type { Context } from '../context.ts';
import { readSecretKey } from '../keys.ts';

export async function runCache(context: Context): Promise<number> {
  const [what = '', ...args] = context.args;
  const [url = '', ...paths] = args;
  const takes = (min: number, max: number, words: string): void => {
    if (args.length < min || args.length > max)
      throw new FlkError('FLK_USAGE', `flk cache ${what} takes ${words}`, {
        hint: 'flk help cache shows how',
      });
  };
  switch (what) {
    case 'keygen':
      if (context.flags.public) {
        takes(0, 0, 'nothing more with --public: the secret key comes on stdin');
        return await showPublicKey(context);
      }
      takes(1, 1, 'a NAME, such as cache.example.org-1');
      return keygen(context, url);
    case 'push':
      takes(2, Number.POSITIVE_INFINITY, 'a URL and store paths');
      return await push(context, url, paths);
    case 'pull':
      takes(2, Number.POSITIVE_INFINITY, 'a URL and store paths');
      return await pull(context, url, paths);
    case 'info':
      takes(1, 1, 'a URL');
      return await info(context, url);
    case 'serve':
      takes(0, 0, 'options only');
      return await (await import('./cache-serve.ts')).runCacheServe(context);
    default:
      throw new FlkError('FLK_USAGE', `there is no flk cache ${what}`, {
        hint: 'flk cache keygen, push, pull, info or serve',
      });
  }
}

function keygen(context: Context, name: string): number {
  const key = generateSecretKey(name);
  const publicKey = printPublicKey(publicKeyOf(key));
  context.answer({ secretKey: printSecretKey(key), publicKey }, () => printSecretKey(key));
  if (!context.flags.json) context.report.say(publicKey);
  return 0;
}

async function showPublicKey(context: Context): Promise<number> {
  const publicKey = printPublicKey(publicKeyOf(parseSecretKey(await text(context.input))));
  context.answer({ publicKey }, () => publicKey);
  return 0;
}

async function push(context: Context, url: string, names: readonly string[]): Promise<number> {
  const { reporter, signal, flags } = context;
  const asked = flags.compression;
  const packing = packings.find((name) => name === asked);
  if (asked !== undefined && packing === undefined)
    throw new FlkError('FLK_USAGE', `there is no compression ${asked}`, {
      facts: { wanted: packings.join(', ') },
    });
  const key = flags.key === undefined ? undefined : await readSecretKey(context, flags.key);
  const target = await openCache(context, url);
  const [store, { readValidPath }, { assertNotHostBuilt }, { pushPaths }] = await Promise.all([
    context.store(),
    import('../store-paths.ts'),
    import('../../build/host-built.ts'),
    import('../../store/caches/push.ts'),
  ]);
  const closure = store.closure(names.map((name) => readValidPath(store, context.cwd, name).path));
  if (!flags['allow-host']) await assertNotHostBuilt(store, closure);
  const pushed = closure.map((path) => ({ info: store.query(path)!, tree: store.tree(path) }));
  const added = await pushPaths(target.cache, pushed, {
    packing: packing ?? target.packing,
    key,
    stage: store.readOnly ? undefined : () => store.stage(),
    reporter,
    signal,
  });
  context.answer({ cache: target.cache.url, paths: closure, added }, () => added.join('\n'));
  return 0;
}

async function pull(context: Context, url: string, names: readonly string[]): Promise<number> {
  const [store, { readPathArgument }, settings] = await Promise.all([
    context.store(),
    import('../store-paths.ts'),
    context.settings(),
  ]);
  const paths = names.map((name) => readPathArgument(store, context.cwd, name).path);
  const substituter = await openSubstituterOf(context, {
    caches: [url],
    publicKeys: [...settings.trustedPublicKeys, ...context.flags['trusted-public-key']],
    ...(settings.requireSigs ? {} : { trusted: true }),
    // What is not to be trusted is the error here.
    reporter: {
      emit: (event) => {
        if (event.kind !== 'notice' || event.notice.type !== 'cache-untrusted') context.reporter.emit(event);
      },
    },
  });
  const missing: StorePath[] = [];
  for (const path of paths) {
    store.hold([path]);
    if (store.query(path)) continue;
    await substituter.require(path);
    missing.push(path);
  }
  context.answer({ paths, added: missing }, () => paths.join('\n'));
  return 0;
}

async function info(context: Context, url: string): Promise<number> {
  const { cache, priority, trusted } = await openCache(context, url);
  const said = await cache.info();
  const answer = { url: cache.url, storeDir: '/nix/store', priority: priority ?? said.priority, trusted };
  const { wantMassQuery } = said;
  context.answer({ ...answer, wantMassQuery }, () =>
    [
      `URL:             ${answer.url}`,
      `Store:           ${answer.storeDir}`,
      `Priority:        ${answer.priority}`,
      `Mass queries:    ${wantMassQuery ? 'welcome' : 'not welcome'}`,
      `Taken unsigned:  ${trusted ? 'yes' : 'no'}`,
    ].join('\n'),
  );
  return 0;
}
