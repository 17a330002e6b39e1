/** Fetches the archive at a URL in a process of its own, and tells how that ended and how much memory it took. */
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
process.send?.({ code, peak: process.resourceUsage().maxRSS * 1024 }, () => process.disconnect());
