/** What happens to all that is built here, by whichever engine: the keys that are set sign it, and the caches that are set get it. */
import { asFlkError, FlkError, redactUrls } from '../base/errors.ts';
import { quote } from '../base/process.ts';
import { HostBuilds } from '../build/host-built.ts';
import { fingerprint } from '../formats/narinfo.ts';
import { type SecretKey, signText } from '../formats/signature.ts';
import type { StorePath } from '../formats/store-path.ts';
import { parseCacheAddress } from '../store/caches/cache.ts';
import type { Pusher } from '../store/caches/push.ts';
import type { PathInfo } from '../store/path-info.ts';
import type { Store } from '../store/store.ts';
import { type CacheContext, openCache } from './caches.ts';
import { readSecretKey } from './keys.ts';
import type { Flags } from './options.ts';

/** What of a command's context this needs. */
interface PushContext extends CacheContext {
  readonly flags: CacheContext['flags'] & Pick<Flags, 'push' | 'push-to' | 'allow-host' | 'store'>;
}

export interface AfterBuild {
  /** Signs what has become valid, and begins to push it. */
  onBuilt(built: readonly PathInfo[]): Promise<void>;
  /**
   * Waits until all is pushed, and tells what is not. Throws what kept something from a cache, where `requirePush` is set; the builds
   * stay.
   */
  settled(): Promise<void>;
}

/** Undefined where nothing is to happen. Throws FLK_USAGE for what is no cache; FLK_FILE_UNREADABLE and FLK_KEY_INVALID for keys. */
export async function openAfterBuild(context: PushContext): Promise<AfterBuild | undefined> {
  const { secretKeyFiles, pushTo, requirePush } = await context.settings();
  const { flags, cwd, offline } = context;
  const named = flags['push-to'].length > 0 ? flags['push-to'] : pushTo;
  // Before anything is built: who finds out an hour later has waited for nothing.
  const addresses =
    flags.push === false ? [] : named.map((text) => ({ text, ...parseCacheAddress(text, cwd) }));
  // --offline means that nobody on the network is asked, not that it is told for each.
  const reachable = addresses.filter(({ place }) => !offline || requirePush || place.kind === 'folder');
  if (secretKeyFiles.length === 0 && reachable.length === 0) return undefined;
  const keys = await Promise.all(secretKeyFiles.map((path) => readSecretKey(context, path)));
  return new SignedPushes(
    context,
    await context.store(),
    keys,
    reachable.map(({ text }) => ({ text, pusher: undefined, failure: undefined, missing: new Set() })),
    requirePush,
  );
}

/** A cache that gets what is built. */
interface Target {
  /** Its address, as it was given. */
  readonly text: string;
  pusher: Promise<Pusher> | undefined;
  /** The first one, and what is not there because of it, or of others. */
  failure: FlkError | undefined;
  readonly missing: Set<StorePath>;
}

class SignedPushes implements AfterBuild {
  readonly #context: PushContext;
  readonly #store: Store;
  readonly #keys: readonly SecretKey[];
  readonly #targets: readonly Target[];
  readonly #required: boolean;
  readonly #hostBuilds = new HostBuilds();
  readonly #skipped = new Set<StorePath>();
  #pushes: Promise<void>[] = [];

  constructor(
    context: PushContext,
    store: Store,
    keys: readonly SecretKey[],
    targets: readonly Target[],
    required: boolean,
  ) {
    this.#context = context;
    this.#store = store;
    this.#keys = keys;
    this.#targets = targets;
    this.#required = required;
  }

  async onBuilt(built: readonly PathInfo[]): Promise<void> {
    for (const info of built)
      if (this.#keys.length > 0) {
        const text = fingerprint(info);
        this.#store.addSignatures(
          info.path,
          this.#keys.map((key) => signText(text, key)),
        );
      }
    if (this.#targets.length > 0) this.#pushes.push(this.#pushAll(built));
  }

  async settled(): Promise<void> {
    // What is built meanwhile counts, too.
    for (let pushes = this.#pushes; pushes.length > 0; pushes = this.#pushes) {
      this.#pushes = [];
      await Promise.all(pushes);
    }
    await Promise.all(
      this.#targets.map(async (target) => {
        const pusher = await target.pusher?.catch(() => undefined);
        target.pusher = undefined;
        await pusher?.close();
      }),
    );
    const { reporter, signal } = this.#context;
    if (this.#skipped.size > 0)
      reporter.emit({ kind: 'notice', notice: { type: 'push-skipped', paths: [...this.#skipped] } });
    this.#skipped.clear();
    if (signal.aborted) return;
    const [first, ...others] = this.#targets.flatMap((target) => this.#told(target));
    for (const told of this.#required ? others : [first, ...others])
      if (told) reporter.emit({ kind: 'notice', notice: { type: 'push-failed', ...told.notice } });
    if (first && this.#required) throw first.error;
  }

  /** What is not there, once. */
  #told(target: Target) {
    const { failure } = target;
    if (!failure) return [];
    const paths = [...target.missing];
    target.failure = undefined;
    target.missing.clear();
    const cache = redactUrls(target.text);
    const { store, 'allow-host': allowHost } = this.#context.flags;
    const options = [
      ...(store === undefined ? [] : ['--store', store]),
      ...(allowHost ? ['--allow-host'] : []),
    ];
    const command = ['flk', 'cache', 'push', ...options, cache, ...paths].map(quote).join(' ');
    const error = new FlkError(failure.code, `what was built is not in ${cache}: ${failure.message}`, {
      facts: { ...failure.facts, paths: paths.join('\n') },
      hint: `${failure.hint === '' ? '' : `${failure.hint}; then `}${command}`,
      cause: failure,
    });
    return [{ notice: { cache, paths, reason: failure.message, command }, error }];
  }

  /** Never throws. */
  async #pushAll(built: readonly PathInfo[]): Promise<void> {
    const paths: StorePath[] = [];
    for (const info of built)
      if (await this.#isForOthers(info)) paths.push(info.path);
      else this.#skipped.add(info.path);
    if (paths.length > 0) await Promise.all(this.#targets.map((target) => this.#push(target, paths)));
  }

  async #isForOthers(info: PathInfo): Promise<boolean> {
    if (this.#context.flags['allow-host']) return true;
    return await this.#hostBuilds.assertNone(this.#store, info).then(
      () => true,
      () => false,
    );
  }

  async #push(target: Target, paths: readonly StorePath[]): Promise<void> {
    try {
      // Who is out of reach, or does not let us in, is not asked again for each path.
      if (target.failure?.exitStatus === 3) throw target.failure;
      const closure = this.#store.closure(paths);
      this.#store.hold(closure);
      target.pusher ??= this.#open(target.text);
      const pusher = await target.pusher;
      await pusher.push(
        closure.map((path) => ({ info: this.#store.query(path)!, tree: this.#store.tree(path) })),
      );
    } catch (error) {
      target.failure ??= asFlkError(error);
      for (const path of paths) target.missing.add(path);
    }
  }

  async #open(text: string): Promise<Pusher> {
    const { reporter, signal } = this.#context;
    const [{ cache, packing }, { openPusher }] = await Promise.all([
      openCache(this.#context, text),
      import('../store/caches/push.ts'),
    ]);
    return openPusher(cache, { packing, stage: () => this.#store.stage(), reporter, signal });
  }
}
