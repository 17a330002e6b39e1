/** A terminal's screen in memory: enough of one to see what a report leaves on it. */
import { cellWidth } from '../../src/report/text.ts';

interface Cell {
  readonly text: string;
  readonly cells: number;
}

/** Rows are joined when a line wraps, so that a change of width reflows them as terminals do. */
interface Line {
  cells: Cell[];
}

export class VirtualScreen {
  columns: number;
  rows: number;
  written = '';
  writes = 0;
  /** A line has reached the last column and gone on below. */
  wrapped = false;
  #lines: Line[] = [{ cells: [] }];
  #line = 0;
  /** Cells before the cursor in its line. */
  #column = 0;

  constructor(columns: number, rows: number) {
    this.columns = columns;
    this.rows = rows;
  }

  write(text: string): void {
    this.written += text;
    this.writes++;
    const tokens = text.match(/\u001b\[[0-9;?]*[A-Za-z]|\r|\n|[^\u001b\r\n]/gsu) ?? [];
    for (const token of tokens) this.#take(token);
  }

  resize(columns: number, rows: number): void {
    this.columns = columns;
    this.rows = rows;
  }

  /** Lines up to the last that is not empty. */
  lines(): string[] {
    const texts = this.#lines.map(({ cells }) =>
      cells
        .map(({ text }) => text)
        .join('')
        .trimEnd(),
    );
    while (texts.at(-1) === '') texts.pop();
    return texts;
  }

  get cursor(): { row: number; column: number } {
    return { row: this.#rowsBefore(this.#line), column: this.#column };
  }

  /** Rows that no longer fit on the screen. */
  get scrolled(): number {
    return Math.max(0, this.#rowsBefore(this.#lines.length) - this.rows);
  }

  #rowsBefore(line: number): number {
    return this.#lines.slice(0, line).reduce((sum, { cells }) => sum + this.#rowsOf(cells), 0);
  }

  #rowsOf(cells: readonly Cell[]): number {
    return Math.max(1, Math.ceil(widthOf(cells) / this.columns));
  }

  #take(token: string): void {
    if (token === '\n') {
      this.#line++;
      this.#column = 0;
      this.#lines[this.#line] ??= { cells: [] };
    } else if (token === '\r') {
      // The first column of the row, not of the wrapped line.
      this.#column -= this.#column % this.columns;
    } else if (token.startsWith('\u001b')) {
      const count = Number(/\d+/.exec(token)?.[0] ?? 1);
      if (token.endsWith('A')) this.#up(count);
      else if (token.endsWith('J')) {
        this.#cut();
        this.#lines.length = this.#line + 1;
      } else if (token.endsWith('K')) this.#cut();
      else if (!token.endsWith('m')) throw new Error(`this screen does not know ${JSON.stringify(token)}`);
    } else {
      this.#cut();
      const line = this.#lines[this.#line]!;
      line.cells.push({ text: token, cells: cellWidth(token) });
      this.#column += cellWidth(token);
      if (this.#column >= this.columns) this.wrapped = true;
    }
  }

  /** Up by rows as they lie now; ends in a row's first column or the same one. */
  #up(count: number): void {
    const row = Math.max(0, this.#rowsBefore(this.#line) + Math.floor(this.#column / this.columns) - count);
    for (let line = 0; ; line++) {
      const rows = this.#rowsOf(this.#lines[line]!.cells);
      const before = this.#rowsBefore(line);
      if (row < before + rows) {
        this.#line = line;
        this.#column = (row - before) * this.columns;
        return;
      }
    }
  }

  #cut(): void {
    const line = this.#lines[this.#line]!;
    const kept: Cell[] = [];
    let width = 0;
    for (const cell of line.cells) {
      if (width >= this.#column) break;
      kept.push(cell);
      width += cell.cells;
    }
    line.cells = kept;
  }
}

const widthOf = (cells: readonly Cell[]): number => cells.reduce((sum, cell) => sum + cell.cells, 0);
