/** Fetches the archive at a URL in a process of its own, and tells how that ended and how much memory it took. */
import { readFileSync } from 'node:fs';
import { ArchiveSource } from '../../../src/sources/archive-source.ts';
import { HttpClient } from '../../../src/sources/http.ts';

const [url = '', cacheFolder = ''] = process.argv.slice(2);
const source = new ArchiveSource({
  cacheFolder,
  client: new HttpClient(),
  reporter: { emit: () => {} },
});
const code = await source.fetch({ url: new URL(url), shown: 'the archive', kind: 'tarball' }).then(
  () => 'fetched',
  (error: unknown) => (error instanceof Error && 'code' in error ? error.code : String(error)),
);
process.send?.({ code, peak: peak() }, () => process.disconnect());

/** Bytes. Linux counts in maxRSS what the process that started this one had at its own peak, so its own is asked for. */
function peak(): number {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
  return Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
}
