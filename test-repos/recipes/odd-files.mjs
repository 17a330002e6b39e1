/**
 * Everything a Git tree can hold that a careless reader gets wrong: modes, links, empty folders, a submodule, names that are not
 * UTF-8, names that Git and NAR sort differently, contents that filters would change.
 */
import { emptyFolder, executable, submodule, symlink } from '../build.mjs';

/** @type {import('../build.mjs').RecipeMaker} */
export const recipe = ({ flake }) => ({
  name: 'odd-files',
  commits: [
    {
      id: 'first',
      date: '2024-07-01T12:00:00Z',
      files: [
        ...Object.entries(flake({ description: 'odd files' })),
        ['bin/run', executable('#!/bin/sh\necho ran\n')],
        ['bin/empty', executable('')],
        ['empty.txt', ''],
        ['link-to-file', symlink('bin/run')],
        ['link-to-folder', symlink('bin')],
        ['link-out', symlink('/nowhere/at/all')],
        ['link-up', symlink('../..')],
        ['dangling', symlink('no such file')],
        ['hollow', emptyFolder],
        ['deep/down/hollow', emptyFolder],
        ['module', submodule('1111111111111111111111111111111111111111')],
        // Git sorts the folder `a` as `a/`, after `a.b` and `a-b`; a NAR sorts it as `a`, before them.
        ['a-b', 'dash\n'],
        ['a.b', 'dot\n'],
        ['a/inside', 'slash\n'],
        ['a0', 'zero\n'],
        ['A', 'upper case\n'],
        ['name with spaces and "quotes"', 'quoted\n'],
        ['new\nline', 'two lines\n'],
        ['-dash', 'looks like an option\n'],
        ['grüße/日本語', 'UTF-8\n'],
        // U+FF61 sorts before U+1F600 by bytes, after it by UTF-16 units.
        ['\uff61', 'half-width stop\n'],
        ['\u{1f600}', 'smile\n'],
        [Buffer.from('caf\xe9', 'latin1'), 'latin-1\n'],
        [Buffer.from('\xff\xfe/\x80', 'latin1'), 'no encoding\n'],
        ['latin-link', symlink(Buffer.from('caf\xe9', 'latin1'))],
        ['.gitattributes', '*.txt text eol=crlf\nhidden export-ignore\nident ident\n'],
        ['crlf.txt', 'one\r\ntwo\r\n'],
        ['lf.txt', 'one\ntwo\n'],
        ['hidden', 'export-ignore does not hide this\n'],
        ['ident', '$Id$\n'],
        ['binary', Buffer.from(Array.from({ length: 1024 }, (_, i) => (i * 7) % 256))],
      ],
      expect: '140490b0aead914cec53c280b474abf73982cc42',
    },
    {
      id: 'second',
      date: '2024-07-02T12:00:00Z',
      phase: 2,
      files: [
        ['bin/run', '#!/bin/sh\necho no longer executable\n'],
        ['hollow', null],
        ['a0', null],
      ],
      expect: '96adafc07d8e1b70ee796055e5327b2f29ec32d7',
    },
  ],
});
