/**
 * The filter of system calls that a builder runs under. It refuses what would make setuid and setgid files, extended attributes, keys
 * and other people's terminal input; the outputs are looked through anyhow, but only when the build has ended. Format: classic BPF over
 * `struct seccomp_data`, seccomp(2); numbers of calls: the kernel's tables (`syscall.tbl`, `asm-generic/unistd.h`).
 */
import { endianness } from 'node:os';

/** A call's number by its name; a name that is missing does not exist there. */
type Table = Readonly<Partial<Record<keyof typeof verdicts | 'ioctl', number>>>;

interface Abi {
  /** AUDIT_ARCH_… of linux/audit.h. */
  readonly audit: number;
  readonly table: Table;
}

/** Where `struct seccomp_data` has the number, the ABI and the lower half of an argument, on little-endian machines. */
const offsets = { call: 0, abi: 4, argument: (index: number): number => 16 + 8 * index };

const errno = { EPERM: 1, ENOSYS: 38, ENOTSUP: 95 } as const;
const returns = { allow: 0x7fff_0000, errno: 0x0005_0000, kill: 0x8000_0000 } as const;

/** S_ISUID | S_ISGID. */
const raisingBits = 0o6000;
/** O_CREAT | __O_TMPFILE: without them open(2) does not look at its mode, and some hand over chance. */
const creating = 0o20000100;
/** TIOCSTI and TIOCLINUX: words put into a terminal's input. */
const typing = [0x5412, 0x541c];
/** __X32_SYSCALL_BIT. */
const x32 = 0x4000_0000;

type Verdict = keyof typeof errno | { readonly mode: number; readonly flags?: number };

/** A mode or flags are arguments, by number; the call is refused where they would raise rights. Else it is refused as such. */
const verdicts = {
  chmod: { mode: 1 },
  fchmod: { mode: 1 },
  fchmodat: { mode: 2 },
  fchmodat2: { mode: 2 },
  creat: { mode: 1 },
  mknod: { mode: 1 },
  mknodat: { mode: 2 },
  open: { flags: 1, mode: 2 },
  openat: { flags: 2, mode: 3 },
  // Its mode lies in memory, where no filter can look. Programs fall back to openat, as on Linux before 5.6.
  openat2: 'ENOSYS',
  // What it is given to do passes by every filter. Programs fall back, as on Linux before 5.1.
  io_uring_setup: 'ENOSYS',
  io_uring_enter: 'ENOSYS',
  io_uring_register: 'ENOSYS',
  // A NAR has none, so what a build reads or sets of them would make its output depend on the file system.
  setxattr: 'ENOTSUP',
  lsetxattr: 'ENOTSUP',
  fsetxattr: 'ENOTSUP',
  getxattr: 'ENOTSUP',
  lgetxattr: 'ENOTSUP',
  fgetxattr: 'ENOTSUP',
  listxattr: 'ENOTSUP',
  llistxattr: 'ENOTSUP',
  flistxattr: 'ENOTSUP',
  removexattr: 'ENOTSUP',
  lremovexattr: 'ENOTSUP',
  fremovexattr: 'ENOTSUP',
  setxattrat: 'ENOTSUP',
  getxattrat: 'ENOTSUP',
  listxattrat: 'ENOTSUP',
  removexattrat: 'ENOTSUP',
  // Keyrings know no namespaces.
  add_key: 'EPERM',
  request_key: 'EPERM',
  keyctl: 'EPERM',
} as const satisfies Record<string, Verdict>;

const xattrCalls = [
  ...(['setxattr', 'lsetxattr', 'fsetxattr', 'getxattr', 'lgetxattr', 'fgetxattr'] as const),
  ...(['listxattr', 'llistxattr', 'flistxattr', 'removexattr', 'lremovexattr', 'fremovexattr'] as const),
];

/** Every table has these twelve one after the other. */
function xattrs(first: number): Table {
  return Object.fromEntries(xattrCalls.map((name, index) => [name, first + index]));
}

/** New calls have one number everywhere. */
const everywhere: Table = {
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
  openat2: 437,
  fchmodat2: 452,
  setxattrat: 463,
  getxattrat: 464,
  listxattrat: 465,
  removexattrat: 466,
};

// biome-ignore format: tables
const x86_64: Abi = {
  audit: 0xc000_003e,
  table: {
    ...everywhere, ...xattrs(188),
    open: 2, ioctl: 16, creat: 85, chmod: 90, fchmod: 91, mknod: 133, openat: 257, mknodat: 259, fchmodat: 268,
    add_key: 248, request_key: 249, keyctl: 250,
  },
};
// biome-ignore format: tables
const i386: Abi = {
  audit: 0x4000_0003,
  table: {
    ...everywhere, ...xattrs(226),
    open: 5, creat: 8, mknod: 14, chmod: 15, ioctl: 54, fchmod: 94, openat: 295, mknodat: 297, fchmodat: 306,
    add_key: 286, request_key: 287, keyctl: 288,
  },
};
// biome-ignore format: tables
const aarch64: Abi = {
  audit: 0xc000_00b7,
  table: {
    ...everywhere, ...xattrs(5),
    ioctl: 29, mknodat: 33, fchmod: 52, fchmodat: 53, openat: 56, add_key: 217, request_key: 218, keyctl: 219,
  },
};
// biome-ignore format: tables
const arm: Abi = {
  audit: 0x4000_0028,
  table: {
    ...everywhere, ...xattrs(226),
    open: 5, creat: 8, mknod: 14, chmod: 15, ioctl: 54, fchmod: 94, openat: 322, mknodat: 324, fchmodat: 333,
    add_key: 309, request_key: 310, keyctl: 311,
  },
};

/** One instruction, `struct sock_filter`; `yes` and `no` are how many instructions a jump leaves out. */
interface Instruction {
  readonly code: number;
  readonly yes?: number;
  readonly no?: number;
  readonly value: number;
}

/** BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and so on; linux/bpf_common.h. */
const codes = { load: 0x20, equal: 0x15, atLeast: 0x35, anyBit: 0x45, end: 0x06 } as const;

const load = (value: number): Instruction => ({ code: codes.load, value });
const end = (value: number): Instruction => ({ code: codes.end, value });
const allow = end(returns.allow);
const refuse = (name: keyof typeof errno): Instruction => end(returns.errno | errno[name]);

/**
 * The program for `bwrap --seccomp`, for Node's name of a processor; undefined: none is known. The processor's other ABIs are filtered
 * like its own, so that 32-bit programs can be built and tried; x32, which hardly any kernel has, is not there; others are death.
 */
export function seccompFilter(processor: string): Buffer | undefined {
  if (endianness() !== 'LE') return undefined;
  switch (processor) {
    case 'x64':
      return encode(program([x86_64, i386]));
    case 'arm64':
      return encode(program([aarch64, arm]));
    default:
      return undefined;
  }
}

function program(abis: readonly Abi[]): Instruction[] {
  const sections = abis.map(section);
  return [
    load(offsets.abi),
    ...abis.flatMap(({ audit }, index) => [
      // A section is shorter than the 255 instructions that a jump can leave out at most.
      { code: codes.equal, yes: 0, no: sections[index]!.length + 1, value: audit },
      load(offsets.call),
      ...sections[index]!,
    ]),
    end(returns.kill),
  ];
}

/** What to do with the call whose number is loaded; ends in any case. */
function section({ audit, table }: Abi): Instruction[] {
  const foreign =
    audit === x86_64.audit ? [{ code: codes.atLeast, no: 1, value: x32 }, refuse('ENOSYS')] : [];
  const checks = Object.entries(verdicts).flatMap(([name, verdict]) =>
    checked(table[name as keyof typeof verdicts], judged(verdict)),
  );
  const terminals = [
    load(offsets.argument(1)),
    ...typing.flatMap((value) => [{ code: codes.equal, no: 1, value }, refuse('EPERM')]),
    allow,
  ];
  return [...foreign, ...checks, ...checked(table.ioctl, terminals), allow];
}

/** `then` must end. */
function checked(call: number | undefined, then: readonly Instruction[]): Instruction[] {
  return call === undefined ? [] : [{ code: codes.equal, no: then.length, value: call }, ...then];
}

function judged(verdict: Verdict): Instruction[] {
  if (typeof verdict === 'string') return [refuse(verdict)];
  // The kernel, too, takes modes and flags to be 32 bits wide at most.
  const onMode = [
    load(offsets.argument(verdict.mode)),
    { code: codes.anyBit, no: 1, value: raisingBits },
    refuse('EPERM'),
    allow,
  ];
  if (verdict.flags === undefined) return onMode;
  const onFlags = [
    load(offsets.argument(verdict.flags)),
    { code: codes.anyBit, yes: 1, no: 0, value: creating },
    allow,
  ];
  return [...onFlags, ...onMode];
}

function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(instructions.length * 8);
  for (const [index, { code, yes = 0, no = 0, value }] of instructions.entries()) {
    bytes.writeUInt16LE(code, index * 8);
    bytes.writeUInt8(yes, index * 8 + 2);
    bytes.writeUInt8(no, index * 8 + 3);
    bytes.writeUInt32LE(value >>> 0, index * 8 + 4);
  }
  return bytes;
}
