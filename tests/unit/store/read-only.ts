/** Uses a store that belongs to somebody else and tells what happens; run as a process of its own. Arguments: its root, a path in it. */
import { asFlkError } from '../../../src/base/errors.ts';
import { parseStorePath } from '../../../src/formats/store-path.ts';
import { openStore } from '../../../src/store/store.ts';

const [root = '', path = ''] = process.argv.slice(2);
const store = await openStore(root);
const answer = await store.addText('new', 'new', []).then(
  () => 'fine',
  (error: unknown) => asFlkError(error).code,
);
const known = parseStorePath(path);
await store.verifyPath(known);
process.send?.({ answer, closure: store.closure([known]).length, readOnly: store.readOnly });
store.close();
process.disconnect();
