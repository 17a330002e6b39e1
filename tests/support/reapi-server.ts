/** A server of the Remote Execution API that runs nothing: it says what a test has it say, counts what it is asked, and fails on demand. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { blobDigest, keyOf } from '../../src/build/engines/remote/digest.ts';
import { directoryOf, type Node as MerkleNode } from '../../src/build/engines/remote/merkle.ts';
import {
  Action,
  type ActionResult,
  type Codec,
  Command,
  type Digest,
  decode,
  ExecuteOperationMetadata,
  type ExecuteRequest,
  ExecuteResponse,
  encode,
  type Method,
  methods,
  type Operation,
  PreconditionFailure,
  type ServerCapabilities,
  Status,
  Tree,
  type WriteRequest,
} from '../../src/generated/remote-execution.ts';
import type { Node } from './trees.ts';

export type MethodName = keyof typeof methods;

/** A failure that a call meets: gRPC's number for it. */
export interface Fault {
  readonly code: number;
  readonly message?: string;
  readonly details?: readonly { readonly typeUrl: string; readonly value: Buffer }[];
}

export const unavailable: Fault = { code: 14, message: 'gone for a moment' };

/** What an action is said to have done. */
export type Outcome = Partial<ActionResult> | { readonly status: Fault };

const usualCapabilities: Partial<ServerCapabilities> = {
  cacheCapabilities: {
    digestFunctions: [1],
    maxBatchTotalSizeBytes: 0,
    symlinkAbsolutePathStrategy: 2,
    supportedCompressors: [],
    maxCasBlobSizeBytes: 0,
  },
  executionCapabilities: { digestFunction: 1, execEnabled: true, digestFunctions: [1] },
  lowApiVersion: { major: 2, minor: 0 },
  highApiVersion: { major: 2, minor: 3 },
};

export class FakeServer {
  readonly blobs = new Map<string, Buffer>();
  readonly results = new Map<string, Partial<ActionResult>>();
  readonly calls = new Map<MethodName, number>();
  /** What each call was sent along, the last first. */
  readonly metadata: Metadata[] = [];
  /** Actions that were run, in order. */
  readonly ran: { readonly action: Action; readonly command: Command; readonly request: ExecuteRequest }[] =
    [];
  readonly cancelled: string[] = [];
  capabilities: Partial<ServerCapabilities> = usualCapabilities;
  /** What comes of an action. */
  outcome: (command: Command, ran: number) => Outcome | Promise<Outcome> = () => ({});
  /** Asked before each call is answered; a fault is its answer, a promise holds it up. */
  fault: (method: MethodName, count: number) => Fault | undefined | Promise<Fault | undefined> = () =>
    undefined;
  /** What is sent instead of a blob. */
  corrupt: (bytes: Buffer) => Buffer = (bytes) => bytes;
  /** Breaks a stream of blobs off in the middle, as often as this. */
  breaks = 0;
  /** Ends the stream of an action before its end, as often as this. */
  leaves = 0;
  /** The name of a stream that has what an action prints. */
  stdoutStream = '';
  /** Whether blobs may come packed, and what they were asked for by. */
  readonly resources: string[] = [];
  port = 0;
  #server = new Server();
  #operations = 0;

  async start(credentials = ServerCredentials.createInsecure()): Promise<void> {
    const server = new Server({ 'grpc.max_receive_message_length': 64 * 2 ** 20 });
    this.#server = server;
    this.#serve(server);
    this.port = await new Promise((resolve, reject) => {
      server.bindAsync(`127.0.0.1:${this.port}`, credentials, (error, port) =>
        error ? reject(error) : resolve(port),
      );
    });
  }

  /** Drops every connection, and is there again, knowing no action that ran. */
  async restart(): Promise<void> {
    this.#server.forceShutdown();
    await this.start();
  }

  stop(): void {
    this.#server.forceShutdown();
  }

  get address(): string {
    return `grpc://127.0.0.1:${this.port}`;
  }

  count(method: MethodName): number {
    return this.calls.get(method) ?? 0;
  }

  put(bytes: Buffer): Digest {
    const digest = blobDigest(bytes);
    this.blobs.set(keyOf(digest), bytes);
    return digest;
  }

  /** What an action has as outputs: path → tree. */
  outputs(nodes: Readonly<Record<string, Node>>): Partial<ActionResult> {
    const result = { outputFiles: [], outputDirectories: [], outputSymlinks: [] } as {
      -readonly [K in keyof ActionResult]?: ActionResult[K] extends readonly (infer E)[]
        ? E[]
        : ActionResult[K];
    };
    for (const [path, node] of Object.entries(nodes)) {
      if (node.type === 'file')
        result.outputFiles!.push({
          path,
          digest: this.put(node.contents),
          isExecutable: node.executable,
          contents: Buffer.alloc(0),
        });
      else if (node.type === 'symlink') result.outputSymlinks!.push({ path, target: node.target });
      else {
        const children: Buffer[] = [];
        const root = this.#folder(node, children);
        const treeDigest = this.put(encode(Tree, { root, children }));
        result.outputDirectories!.push({ path, treeDigest, rootDirectoryDigest: undefined });
      }
    }
    return result;
  }

  #folder(node: Extract<Node, { type: 'directory' }>, children: Buffer[]): Buffer {
    const nodes = [...node.entries].map(([key, child]): MerkleNode => {
      const name = Buffer.from(key, 'latin1');
      if (child.type === 'file') {
        const digest = this.put(child.contents);
        return { kind: 'file', node: { name, digest, isExecutable: child.executable } };
      }
      if (child.type === 'symlink') return { kind: 'symlink', node: { name, target: child.target } };
      const bytes = this.#folder(child, children);
      children.push(bytes);
      return { kind: 'directory', node: { name, digest: blobDigest(bytes) } };
    });
    return directoryOf(nodes);
  }

  #serve(server: Server): void {
    this.#unary(server, 'getCapabilities', methods.getCapabilities, () => this.capabilities);
    this.#unary(server, 'cancelOperation', methods.cancelOperation, ({ name }) => {
      this.cancelled.push(name);
      return {};
    });
    this.#unary(server, 'getActionResult', methods.getActionResult, ({ actionDigest }) => {
      const result = this.results.get(actionDigest!.hash);
      if (!result) throw failure({ code: 5, message: 'no such result' });
      return result;
    });
    this.#unary(server, 'findMissingBlobs', methods.findMissingBlobs, ({ blobDigests }) => ({
      missingBlobDigests: blobDigests.filter((digest) => !this.blobs.has(keyOf(digest))),
    }));
    this.#unary(server, 'batchUpdateBlobs', methods.batchUpdateBlobs, ({ requests }) => ({
      responses: requests.map(({ digest, data }) => {
        const fits = digest && keyOf(digest) === keyOf(this.put(data));
        return { digest, status: { code: fits ? 0 : 3, message: '', details: [] } };
      }),
    }));
    this.#unary(server, 'batchReadBlobs', methods.batchReadBlobs, ({ digests }) => ({
      responses: digests.map((digest) => {
        const data = this.blobs.get(keyOf(digest));
        const status = { code: data ? 0 : 5, message: data ? '' : 'no such blob', details: [] };
        return { digest, data: data ? this.corrupt(data) : Buffer.alloc(0), status };
      }),
    }));
    this.#streaming(server, 'getTree', methods.getTree, async (_request, call) => void call.end());
    this.#streaming(server, 'read', methods.read, ({ resourceName }, call) => this.#read(resourceName, call));
    this.#streaming(server, 'execute', methods.execute, (request, call) => this.#execute(request, call));
    this.#streaming(server, 'waitExecution', methods.waitExecution, async (_request, _call) => {
      throw failure({ code: 5, message: 'no such operation' });
    });
    const write = methods.write;
    add(server, write, true, false, async (call: ServerReadableStream<WriteRequest, object>, done) => {
      try {
        await this.#meet('write', call.metadata);
        let name = '';
        const chunks: Buffer[] = [];
        for await (const part of call as AsyncIterable<WriteRequest>) {
          if (part.resourceName !== '') name = part.resourceName;
          chunks.push(part.data);
        }
        this.resources.push(name);
        const bytes = Buffer.concat(chunks);
        const key = keyOf(blobDigest(bytes));
        if (!name.endsWith(key)) throw failure({ code: 3, message: `these are the bytes of ${key}` });
        this.blobs.set(key, bytes);
        done(null, { committedSize: bytes.length });
      } catch (error) {
        done(error as Error);
      }
    });
  }

  async #read(resourceName: string, call: ServerWritableStream<unknown, object>): Promise<void> {
    this.resources.push(resourceName);
    const key = /[0-9a-f]{64}\/\d+$/.exec(resourceName)?.[0] ?? '';
    const found = this.blobs.get(key) ?? this.blobs.get(resourceName);
    if (!found) throw failure({ code: 5, message: 'no such blob' });
    const bytes = this.corrupt(found);
    for (let at = 0; at < bytes.length; at += 100_000) {
      if (at > bytes.length / 2 && this.breaks > 0) {
        this.breaks--;
        throw failure(unavailable);
      }
      if (!call.write({ data: bytes.subarray(at, at + 100_000) }))
        await new Promise((resolve) => call.once('drain', resolve));
      if (call.cancelled) return;
    }
    call.end();
  }

  async #execute(request: ExecuteRequest, call: ServerWritableStream<unknown, object>): Promise<void> {
    const name = `operations/${++this.#operations}`;
    const action = decode(Action, this.#blob(request.actionDigest!));
    const command = decode(Command, this.#blob(action.commandDigest!));
    this.#blob(action.inputRootDigest!);
    this.ran.push({ action, command, request });
    const { stdoutStream: stdoutStreamName } = this;
    const metadata = pack('ExecuteOperationMetadata', ExecuteOperationMetadata, {
      stage: 3,
      stdoutStreamName,
    });
    call.write({ name, metadata, done: false } satisfies Partial<Operation>);
    if (this.leaves > 0) {
      this.leaves--;
      call.end();
      return;
    }
    const outcome = await this.outcome(command, this.ran.length);
    if (call.cancelled) return;
    if (!('status' in outcome) && !action.doNotCache) this.results.set(request.actionDigest!.hash, outcome);
    const response = pack(
      'ExecuteResponse',
      ExecuteResponse,
      'status' in outcome ? { status: statusOf(outcome.status) } : { result: whole(outcome) },
    );
    call.write({ name, metadata, done: true, response } satisfies Partial<Operation>);
    call.end();
  }

  /** A blob that an action needs; one that is not there is what REAPI calls a failed precondition. */
  #blob(digest: Digest): Buffer {
    const bytes = this.blobs.get(keyOf(digest));
    if (!bytes) throw failure(missing(digest));
    return bytes;
  }

  async #meet(name: MethodName, metadata: Metadata): Promise<void> {
    const count = this.count(name) + 1;
    this.calls.set(name, count);
    this.metadata.unshift(metadata);
    const fault = await this.fault(name, count);
    if (fault) throw failure(fault);
  }

  #unary<Q, R>(
    server: Server,
    name: MethodName,
    method: Method<Q, R>,
    answer: (request: Q) => Partial<R>,
  ): void {
    add(server, method, false, false, async (call: ServerUnaryCall<Q, object>, done) => {
      try {
        await this.#meet(name, call.metadata);
        done(null, answer(call.request) as object);
      } catch (error) {
        done(error as Error);
      }
    });
  }

  #streaming<Q, R>(
    server: Server,
    name: MethodName,
    method: Method<Q, R>,
    answer: (request: Q, call: ServerWritableStream<unknown, object>) => Promise<void>,
  ): void {
    add(server, method, false, true, async (call: ServerWritableStream<Q, object>) => {
      try {
        await this.#meet(name, call.metadata);
        await answer(call.request, call as ServerWritableStream<unknown, object>);
      } catch (error) {
        call.emit('error', error);
      }
    });
  }
}

function add<Q, R, Call>(
  server: Server,
  { path, request, response }: Method<Q, R>,
  requestStream: boolean,
  responseStream: boolean,
  handle: (call: Call, done: sendUnaryData<object>) => Promise<void>,
): void {
  const definition = {
    call: {
      path,
      requestStream,
      responseStream,
      requestSerialize: (message: Partial<Q>) => encode(request, message),
      requestDeserialize: (bytes: Buffer) => decode(request, bytes),
      responseSerialize: (message: Partial<R>) => encode(response, message),
      responseDeserialize: (bytes: Buffer) => decode(response, bytes),
    },
  };
  server.addService(definition, { call: handle } as unknown as UntypedServiceImplementation);
}

const statusOf = ({ code, message = '', details = [] }: Fault): Status => ({ code, message, details });

function failure(fault: Fault): Error {
  const metadata = new Metadata();
  if (fault.details) metadata.set('grpc-status-details-bin', encode(Status, statusOf(fault)));
  return Object.assign(new Error(fault.message), {
    code: fault.code,
    details: fault.message ?? '',
    metadata,
  });
}

/** What a server says that lacks a blob of an action. */
export const missing = (digest: Digest): Fault => ({
  code: 9,
  message: 'blobs are missing',
  details: [
    pack('PreconditionFailure', PreconditionFailure, {
      violations: [{ type: 'MISSING', subject: `blobs/${keyOf(digest)}` }],
    }),
  ],
});

const pack = <T>(name: string, codec: Codec<T>, message: Partial<T>) => ({
  typeUrl: `type.googleapis.com/${name}`,
  value: encode(codec, message),
});

const whole = (result: Partial<ActionResult>): ActionResult => ({
  outputFiles: [],
  outputDirectories: [],
  exitCode: 0,
  stdoutRaw: Buffer.alloc(0),
  stdoutDigest: undefined,
  stderrRaw: Buffer.alloc(0),
  stderrDigest: undefined,
  outputFileSymlinks: [],
  outputDirectorySymlinks: [],
  outputSymlinks: [],
  ...result,
});

/** Waits for longer than any test does. */
export const forever = async (): Promise<never> => {
  await sleep(2 ** 30, undefined, { ref: false });
  throw new Error('that was long');
};
