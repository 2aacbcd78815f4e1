# Part of the integration of cupscale-fast @version@ with @integration@.
"""The dialog of the plug-in for Krita: its options, and a preview of the middle of the layer."""

try:
    from PyQt5.QtCore import QRect, Qt, QTimer
    from PyQt5.QtGui import QPixmap
    from PyQt5 import QtWidgets
except ImportError:
    from PyQt6.QtCore import QRect, Qt, QTimer
    from PyQt6.QtGui import QPixmap
    from PyQt6 import QtWidgets

from . import cupscale_program, selected, write
from .cupscale_program import Folder, Job, ProgramError

PREVIEW = 256  # longest side of the preview
RESULTS = ["Enlarge into a new document", "Repaint into a new layer, at this size"]
# What was chosen last, for as long as Krita runs.
LAST = {"result": 0, "scale": 2.0, "prompt": "", "strength": 0.0, "model": "", "seed": 0}


class Dialog(QtWidgets.QDialog):
    def __init__(self, parent, document, node):
        super().__init__(parent)
        self.setWindowTitle("Cupscale")
        self._document, self._node = document, node
        self._job = self._folder = None

        self._result = QtWidgets.QComboBox()
        self._result.addItems(RESULTS)
        self._scale = QtWidgets.QDoubleSpinBox(minimum=0.1, maximum=16, singleStep=0.5)
        self._prompt = QtWidgets.QLineEdit(placeholderText="what the picture shows")
        self._strength = QtWidgets.QDoubleSpinBox(minimum=0, maximum=1, singleStep=0.05)
        self._strength.setSpecialValueText("the model's own")
        self._model = QtWidgets.QComboBox(editable=True)
        self._model.addItems([""] + cupscale_program.models())
        self._model.lineEdit().setPlaceholderText("the embedded model")
        self._seed = QtWidgets.QSpinBox(maximum=2**31 - 1)
        self._result.currentIndexChanged.connect(lambda _: self._scale.setEnabled(not self.is_in_place()))
        self._result.setCurrentIndex(LAST["result"])
        self._scale.setValue(LAST["scale"])
        self._prompt.setText(LAST["prompt"])
        self._strength.setValue(LAST["strength"])
        self._model.setEditText(LAST["model"])
        self._seed.setValue(LAST["seed"])

        self._button = QtWidgets.QPushButton("Preview the middle")
        self._button.setAutoDefault(False)
        self._button.clicked.connect(self._clicked)
        self._state = QtWidgets.QLabel("before | after")
        self._before, self._after = QtWidgets.QLabel(), QtWidgets.QLabel()
        self._timer = QTimer(self, interval=100)
        self._timer.timeout.connect(self._watch)

        form = QtWidgets.QFormLayout()
        for label, field in [
            ("Result", self._result),
            ("Scale", self._scale),
            ("Prompt", self._prompt),
            ("Strength", self._strength),
            ("Model", self._model),
            ("Seed", self._seed),
        ]:
            form.addRow(label, field)
        pictures = QtWidgets.QHBoxLayout()
        pictures.addWidget(self._before)
        pictures.addWidget(self._after)
        ok, cancel = QtWidgets.QDialogButtonBox.StandardButton.Ok, QtWidgets.QDialogButtonBox.StandardButton.Cancel
        buttons = QtWidgets.QDialogButtonBox(ok | cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self._button)
        layout.addWidget(self._state)
        layout.addLayout(pictures)
        layout.addWidget(buttons)

    def ask(self):
        """Shows the dialog; true where the user wants the job."""
        is_wanted = bool(self.exec_() if hasattr(self, "exec_") else self.exec())
        if self._job is not None:
            self._job.cancel()
            self._end()
        LAST.update(result=self._result.currentIndex(), scale=self.scale(), **self.options())
        return is_wanted

    def is_in_place(self):
        return self._result.currentIndex() == 1

    def scale(self):
        return self._scale.value()

    def options(self):
        return {
            "prompt": self._prompt.text(),
            "strength": self._strength.value(),
            "model": self._model.currentText(),
            "seed": self._seed.value(),
        }

    def _clicked(self):
        if self._job is not None:
            self._job.cancel()
            return
        scale = 1 if self.is_in_place() else self.scale()
        self._folder = Folder()
        source, output = self._folder.file("before.png"), self._folder.file("after.png")
        try:
            area = selected(self._document, self._node)
            side = max(int(PREVIEW / scale), 16)
            middle = QRect(0, 0, min(area.width(), side), min(area.height(), side))
            middle.moveCenter(area.center())
            write(self._document, self._node, middle, source)
            self._job = Job(self._folder, source, output, cupscale_program.options(scale=scale, **self.options()))
        except ProgramError as error:
            self._state.setText(str(error))
            self._folder.__exit__()
            return
        self._button.setText("Cancel the preview")
        self._timer.start()

    def _watch(self):
        if self._job.is_running():
            self._state.setText("%s, %d %%" % (self._job.text, self._job.fraction * 100))
        else:
            self._end()

    def _end(self):
        """Waits for the preview and shows it, or what was wrong."""
        self._timer.stop()
        try:
            self._job.finish()
            after = QPixmap(self._folder.file("after.png"))
            smooth = Qt.TransformationMode.SmoothTransformation
            size, aspect = after.size(), Qt.AspectRatioMode.IgnoreAspectRatio
            self._before.setPixmap(QPixmap(self._folder.file("before.png")).scaled(size, aspect, smooth))
            self._after.setPixmap(after)
            self._state.setText("before | after")
        except ProgramError as error:
            self._state.setText(str(error))
        self._folder.__exit__()
        self._job = self._folder = None
        self._button.setText("Preview the middle")
