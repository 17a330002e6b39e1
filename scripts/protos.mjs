/**
 * Turns the .proto files of the remote engine into src/generated/remote-execution.ts: a type, a writer and a reader for each message,
 * and the methods of the services. What is left to be done at run time is protobufjs's smallest part: varints and lengths.
 *
 * Written is the canonical form, on which digests rest: fields in the order of their numbers, nothing that has its default.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, 'src/build/engines/remote/protos');

/** How each scalar is typed, what its default is, and how a value is read. */
const scalars = {
  string: { type: 'string', none: "''", read: 'reader.string()' },
  bytes: { type: 'Buffer', none: 'noBytes', read: 'asBuffer(reader.bytes())' },
  bool: { type: 'boolean', none: 'false', read: 'reader.bool()' },
  int32: { type: 'number', none: '0', read: 'reader.int32()' },
  int64: { type: 'number', none: '0', read: 'asNumber(reader.int64())' },
};
const enumKind = { type: 'number', none: '0', read: 'reader.int32()' };

const wireTypes = { string: 2, bytes: 2, bool: 0, int32: 0, int64: 0 };

function load() {
  const all = new protobuf.Root();
  for (const name of readdirSync(folder).sort()) {
    if (!name.endsWith('.proto')) continue;
    protobuf.parse(readFileSync(join(folder, name), 'utf8'), all, { keepCase: false });
  }
  all.resolveAll();
  const found = [];
  const visit = (node) => {
    for (const child of node.nestedArray ?? []) {
      if (child instanceof protobuf.Namespace && !(child instanceof protobuf.Type)) visit(child);
      if (
        !(child instanceof protobuf.Namespace) ||
        child instanceof protobuf.Type ||
        child instanceof protobuf.Service
      )
        found.push(child);
    }
  };
  visit(all);
  return found;
}

function enumCode({ name, values }) {
  const entries = Object.entries(values).map(([key, value]) => `  ${key}: ${value},`);
  return `export const ${name} = {\n${entries.join('\n')}\n} as const;\n`;
}

function messageCode({ name, fieldsArray }) {
  const fields = [...fieldsArray].sort((a, b) => a.id - b.id).map(fieldCode);
  const lines = (key) => fields.map((field) => field[key]).join('\n');
  return `export interface ${name} {
${lines('declared')}
}
export const ${name}: Codec<${name}> = {
  write(message, writer) {
${lines('written')}
  },
  read(reader, end) {
${lines('before')}
    while (reader.pos < end) {
      const tag = reader.uint32();
      switch (tag >>> 3) {
${lines('readAs')}
        default:
          reader.skipType(tag & 7);
      }
    }
    assertAt(reader, end);
    return { ${fields.map(({ key }) => `${key}: ${key}_`).join(', ')} };
  },
};
`;
}

function fieldCode({ name: key, id, type, repeated, resolvedType }) {
  const isMessage = resolvedType instanceof protobuf.Type;
  const kind = scalars[type] ?? enumKind;
  const wire = isMessage ? 2 : (wireTypes[type] ?? 0);
  const tag = (id << 3) | wire;
  const value = `message.${key}`;
  const element = isMessage ? resolvedType.name : kind.type;
  const write = (what) =>
    isMessage
      ? `${element}.write(${what}, writer.uint32(${tag}).fork()); writer.ldelim();`
      : `writer.uint32(${tag}).${scalars[type] ? type : 'int32'}(${what});`;
  const read = isMessage ? `${element}.read(reader, limited(reader))` : kind.read;
  if (repeated) {
    const packable = wire === 0;
    return {
      key,
      declared: `  readonly ${key}: readonly ${element}[];`,
      written: `    for (const each of ${value} ?? []) { ${write('each')} }`,
      before: `    const ${key}_: ${element}[] = [];`,
      readAs: packable
        ? `        case ${id}: if ((tag & 7) === 2) { const last = limited(reader); while (reader.pos < last) ${key}_.push(${read}); } else { expect(tag, ${wire}); ${key}_.push(${read}); } break;`
        : `        case ${id}: expect(tag, ${wire}); ${key}_.push(${read}); break;`,
    };
  }
  const [declared, none] = isMessage ? [`${element} | undefined`, 'undefined'] : [element, kind.none];
  const isSet =
    type === 'bytes'
      ? `${value} !== undefined && ${value}.length > 0`
      : isMessage
        ? `${value} !== undefined`
        : value;
  return {
    key,
    declared: `  readonly ${key}: ${declared};`,
    written: `    if (${isSet}) { ${write(value)} }`,
    before: `    let ${key}_: ${declared} = ${none};`,
    readAs: `        case ${id}: expect(tag, ${wire}); ${key}_ = ${read}; break;`,
  };
}

function serviceCode(service) {
  return service.methodsArray.map((method) => {
    method.resolve();
    const path = `/${service.fullName.slice(1)}/${method.name}`;
    const key = method.name[0].toLowerCase() + method.name.slice(1);
    const [request, response] = [method.resolvedRequestType.name, method.resolvedResponseType.name];
    return `  ${key}: { path: '${path}', request: ${request}, response: ${response} },`;
  });
}

const prelude = `// Written by scripts/protos.mjs out of src/build/engines/remote/protos.
import protobuf from 'protobufjs/minimal.js';

/** Writes what is given of a message, or reads one that ends at a place of the reader. */
export interface Codec<T> {
  write(message: Partial<T>, writer: protobuf.Writer): void;
  read(reader: protobuf.Reader, end: number): T;
}

export interface Method<Request, Response> {
  readonly path: string;
  readonly request: Codec<Request>;
  readonly response: Codec<Response>;
}

export function encode<T>(codec: Codec<T>, message: Partial<T>): Buffer {
  const writer = protobuf.Writer.create();
  codec.write(message, writer);
  return asBuffer(writer.finish());
}

/** Throws where the bytes are no such message. Its \`Buffer\`s are parts of \`bytes\`. */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  return codec.read(protobuf.Reader.create(bytes), bytes.length);
}

const noBytes = Buffer.alloc(0);

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Sizes beyond what a number holds are no sizes: they only have to be seen to be too large. */
const asNumber = (value: unknown): number => (typeof value === 'number' ? value : Number(String(value)));

/** Reads a length; where what is that long ends. */
function limited(reader: protobuf.Reader): number {
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) throw new RangeError('a field runs past the end of its message');
  return end;
}

function assertAt(reader: protobuf.Reader, end: number): void {
  if (reader.pos !== end) throw new RangeError('a message runs past its end');
}

function expect(tag: number, wire: number): void {
  if ((tag & 7) !== wire) throw new RangeError('a field has another type than it should');
}

`;

function generate() {
  const parts = load();
  const of = (kind) => parts.filter((part) => part instanceof kind);
  const methods = of(protobuf.Service).flatMap(serviceCode);
  return [
    prelude,
    ...of(protobuf.Enum).map(enumCode),
    ...of(protobuf.Type).map(messageCode),
    `export const methods = {\n${methods.join('\n')}\n};\n`,
  ].join('\n');
}

mkdirSync(join(root, 'src/generated'), { recursive: true });
writeFileSync(join(root, 'src/generated/remote-execution.ts'), generate());
