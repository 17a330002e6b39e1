/** The words for activities and notices: one place, so that every report says the same. */
import type { Activity, Event, Notice } from '../base/events.ts';
import { cleanLine, formatBytes, formatDuration } from './text.ts';

interface ActivityWords {
  readonly doing: string;
  readonly done: string;
  readonly subject: string;
  /** Where, if that is not here: ` on nix`. */
  readonly place?: string;
}

/** What is being done to what: `fetching`, `git+https://…`. */
export function activityWords(activity: Activity): ActivityWords {
  switch (activity.type) {
    case 'lock':
      return { doing: 'locking', done: 'locked', subject: cleanLine(activity.flake) };
    case 'resolve':
      return { doing: 'resolving', done: 'resolved', subject: cleanLine(activity.subject) };
    case 'fetch':
      return { doing: 'fetching', done: 'fetched', subject: cleanLine(activity.subject) };
    case 'hash':
      return { doing: 'hashing', done: 'hashed', subject: cleanLine(activity.subject) };
    case 'add':
      return { doing: 'storing', done: 'stored', subject: cleanLine(activity.subject) };
    case 'unpack':
      return { doing: 'unpacking', done: 'unpacked', subject: cleanLine(activity.subject) };
    case 'push':
      return { doing: 'pushing', done: 'pushed', subject: cleanLine(activity.subject) };
    case 'build': {
      const { name, builder } = activity;
      const place = builder === 'local' ? {} : { place: ` on ${cleanLine(builder)}` };
      return { doing: 'building', done: 'built', subject: cleanLine(name), ...place };
    }
    case 'find-roots':
      return { doing: 'finding', done: 'found', subject: 'what is in use' };
    case 'sweep':
      return {
        doing: 'sweeping',
        done: 'swept',
        subject: activity.paths === 1 ? '1 unused path' : `${activity.paths} unused paths`,
      };
  }
}

export interface NoticeWords {
  readonly severity: 'warning' | 'note';
  readonly text: string;
}

export function noticeWords(notice: Notice): NoticeWords {
  switch (notice.type) {
    case 'dirty-tree':
      return warning(`Git tree ${notice.path} has uncommitted changes`);
    case 'untracked':
      return warning(
        `${notice.path} is not tracked by Git, so flk does not see it: git add -N ${notice.path}`,
      );
    case 'host-toolchain':
      return note(
        `impure: host toolchain for ${notice.packages.join(', ')}; set toolchain: for builds that are the same everywhere`,
      );
    case 'no-sandbox':
      return warning(`building without a sandbox: ${notice.reason}`);
    case 'unused-override':
      return warning(`input ${notice.input} is overridden, but the flake has no such input`);
    case 'unused-update':
      return warning(`${notice.input} is no input of this flake with a pin of its own: nothing to update`);
    case 'outdated-relative':
      return warning(
        `input ${notice.input} declares other inputs now than flake.lock has, and Nix does not notice: flk update ${notice.input}`,
      );
    case 'retry':
      return note(
        `${notice.subject}: ${notice.reason}; attempt ${notice.attempt} in ${formatDuration(notice.delayMs)}`,
      );
    case 'netrc-readable':
      return warning(`${notice.path} holds passwords and everybody may read it: chmod 600 ${notice.path}`);
    case 'repository-moved':
      return warning(
        `${notice.from} has moved to ${notice.to}: name that one, for the old name may pass to somebody else`,
      );
    case 'not-locked':
      return warning(`${notice.flake} is not locked: it may be something else tomorrow`);
    case 'old-answer':
      return warning(`${notice.subject}: ${notice.reason}; what it said last time is used`);
    case 'unread-lock':
      return warning(`${notice.path} cannot be read, so every source in the store stays`);
    case 'cache-unreachable':
      return warning(`${notice.cache} is left out: ${notice.reason}`);
    case 'cache-untrusted':
      return warning(
        `${notice.cache} offers ${notice.path} ${notice.signed ? 'with no signature that you trust' : 'unsigned'}: not taken`,
      );
    case 'builder-unavailable':
      return warning(`${notice.builder} is left out: ${notice.reason}`);
    case 'push-failed': {
      const { cache, paths, reason, command } = notice;
      const what = paths.length === 1 ? 'is not' : `and ${paths.length - 1} more are not`;
      return warning(`${paths[0]} ${what} in ${cache}: ${reason}; to try again: ${command}`);
    }
    case 'push-skipped': {
      const [first = '', ...others] = notice.paths;
      const more = others.length === 0 ? '' : ` and ${others.length} more`;
      return note(
        `not pushed, for this machine’s own programs built it: ${first}${more}; --allow-host pushes all the same`,
      );
    }
    case 'key-readable':
      return warning(`${notice.path} holds a secret key and everybody may read it: chmod 600 ${notice.path}`);
    case 'ci-locked':
      return note('CI is set: flake.lock may not change (--no-locked allows it)');
    case 'lock-written':
      return note(`wrote ${notice.path}`);
  }
}

/** One line for a log: `GET /nix-cache-info 200 49 B 1 ms`. */
export function requestWords(event: Extract<Event, { readonly kind: 'request' }>): string {
  const { method, address, status, bytes, ms, broken, fault } = event;
  const end = broken ? ' broken off' : '';
  const line = `${method} ${address} ${status} ${formatBytes(bytes)} ${formatDuration(ms)}${end}`;
  return cleanLine(fault === undefined ? line : `${line}: ${fault}`);
}

const warning = (text: string): NoticeWords => ({ severity: 'warning', text: cleanLine(text) });
const note = (text: string): NoticeWords => ({ severity: 'note', text: cleanLine(text) });
