"""The screen of ``criproxy top``.

Needs textual, which is imported with this module and nowhere else.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import DescendantFocus
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from criproxy.common.printable import fit, printable, shrink
from criproxy.errors import CriproxyError
from criproxy.overview.figures import State, Window
from criproxy.overview.tables import TABLES, Table, describe, summary

_ID: Final = "table-{}"
_STOPPED: Final = "PAUSED: "


class _Rows(DataTable[Text]):
    """One of the tables, whose cursor stays on its object while rows come and go."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Details"),
        Binding("tab", "app.focus_next", "Table"),
    ]

    def __init__(self, table: Table) -> None:
        super().__init__(id=_ID.format(table.source), cursor_type="row", zebra_stripes=False)
        self.table = table
        self.by = 0
        """The number of the column that rows are ordered by."""
        self.objects: dict[str, Mapping[str, Any]] = {}
        """What the rows show, by their keys."""
        self._shown: tuple[Mapping[str, Any], str] | None = None
        self.border_title = table.name

    def on_resize(self) -> None:
        """Fit the columns in the new width."""
        if self._shown is not None:
            self.show(*self._shown)

    def order_by_next(self) -> None:
        """Order by the next column."""
        self.by = (self.by + 1) % len(self.table.columns)

    def show(self, found: Mapping[str, Any], wanted: str) -> None:
        """Show the objects that have a text in their cells."""
        self._shown = found, wanted
        chosen, top = self.chosen_key, self.scroll_y
        rows = self.table.rows(found, wanted, self.table.columns[self.by])
        header = [
            column.name + ("*" if number == self.by else "")
            for number, column in enumerate(self.table.columns)
        ]
        cells_of = [header, *(cells for _, cells in rows)]
        widths = [max(map(len, column)) for column in zip(*cells_of, strict=True)]
        shrink(widths, self.size.width - 2 * self.cell_padding * len(widths))
        self.clear(columns=True)
        for name, width in zip(header, widths, strict=True):
            self.add_column(name, width=width)
        self.objects = {}
        for fields, cells in rows:
            key = self.table.key(fields)
            if key in self.objects:  # two calls of a client in the same microsecond
                key = f"{key} {len(self.objects)}"
            self.objects[key] = fields
            style = _style(self.table.style(fields))
            fitted = (fit(cell, width).rstrip() for cell, width in zip(cells, widths, strict=True))
            self.add_row(*(Text(cell, style, no_wrap=True) for cell in fitted), key=key)
        if chosen in self.objects:
            self.move_cursor(row=self.get_row_index(chosen), scroll=False)
        self.scroll_to(y=top, animate=False)
        self.border_subtitle = f"{len(self.objects)} of {len(found[self.table.source])}"

    @property
    def chosen_key(self) -> str:
        """The key of the row that the cursor is on; empty without rows."""
        keys = list(self.objects)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else ""


class _Details(ModalScreen[None]):
    """All fields of a call, a method or a pod."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Back"),
    ]

    def __init__(self, title: str, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._title = title
        self._fields = fields

    def compose(self) -> ComposeResult:
        """Lay out the fields."""
        rows = describe(self._fields)
        width = max(len(name) for name, _ in rows)
        with VerticalScroll() as body:
            body.border_title = self._title
            yield Static(Text("\n".join(f"{name:<{width}}  {text}" for name, text in rows)))
        yield Footer()


class TopScreen(App[None]):
    """Shows the state of a daemon, and asks for it again and again."""

    TITLE = "criproxy top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; padding: 0 1; }
    _Rows { height: 1fr; border: round $foreground-muted; padding: 0; }
    _Rows:focus { border: heavy $accent; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.shown { display: block; }
    _Details { align: center middle; }
    _Details VerticalScroll { width: 95%; height: 1fr; border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "order", "Order"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("p", "pause", "Pause"),
        Binding("escape", "clear", "Clear", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, ask: Callable[[], State], window: float, interval: float | None) -> None:
        """``ask`` returns the daemon's state, on another thread; it raises a CriproxyError.

        ``window`` and ``interval`` are in seconds; None: only :meth:`refresh_figures` asks.
        """
        super().__init__()
        self._ask = ask
        self._window = Window(window)
        self._interval = interval
        self._found: Mapping[str, Any] | None = None
        self._error = ""
        self._paused = False
        self._asking = False
        self._wanted = ""
        self._last: _Rows | None = None  # the table that was in focus last

    def compose(self) -> ComposeResult:
        """Lay out the summary, the tables and the keys."""
        yield Static(id="summary", markup=False)
        for table in TABLES:
            yield _Rows(table)
        yield Input(placeholder="text in a row", id="filter")
        yield Footer()

    async def on_mount(self) -> None:
        """Ask for the first time, and again and again."""
        self._last = self.query(_Rows).first()
        self._last.focus()
        if self._interval is not None:
            self.set_interval(self._interval, self.refresh_figures)
            self.run_worker(self.refresh_figures())

    async def refresh_figures(self) -> None:
        """Ask for the daemon's state and show it, unless it is paused or asked for already."""
        if self._paused or self._asking:
            return
        self._asking = True
        try:
            state = await asyncio.to_thread(self._ask)
        except CriproxyError as error:
            self._error = str(error)
        else:
            self._error = ""
            found = self._window.add(state)
            if not self._paused:
                self._found = found
        finally:
            self._asking = False
        self._show()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Remember which table is in focus."""
        if isinstance(event.widget, _Rows):
            self._last = event.widget

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._wanted = event.value
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Leave the filter as it is."""
        self._leave_filter()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show all of a row."""
        rows = event.data_table
        if isinstance(rows, _Rows) and rows.chosen_key:
            self.push_screen(_Details(rows.table.name, rows.objects[rows.chosen_key]))

    def action_order(self) -> None:
        """Order the table in focus by its next column."""
        if self._last is not None:
            self._last.order_by_next()
            self._show()

    def action_pause(self) -> None:
        """Let the figures stand, or go on."""
        self._paused = not self._paused
        self._show()

    def action_filter(self) -> None:
        """Have the filter typed."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        """Show all rows again."""
        self.query_one("#filter", Input).value = ""
        self._leave_filter()

    def _leave_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.set_class(bool(field.value), "shown")
        if self._last is not None:
            self._last.focus()
        self._show()

    def _show(self) -> None:
        if self.screen is not self.screen_stack[0]:
            return  # details stand over it; the next state is shown
        # Queries, as there are no widgets any more if the answer comes while the app ends.
        for line in self.query(Static).filter("#summary"):
            if self._error:
                line.update(Text(printable(self._error), _style({"fg": "red"})))
            elif self._found is not None:
                line.update(Text((_STOPPED if self._paused else "") + summary(self._found)))
        if self._found is not None:
            for rows in self.query(_Rows):
                rows.show(self._found, self._wanted)


def _style(style: Mapping[str, Any]) -> Style:
    """Return a style of click's for textual."""
    return Style(color=style.get("fg"), bold=style.get("bold"))
