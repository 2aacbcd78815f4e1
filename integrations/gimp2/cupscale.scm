; Part of the integration of cupscale-fast @version@ with @integration@.
; Filters - Enhance - Cupscale... for GIMP 2.10: the menu entry and the dialog. The plug-in `cupscale` does the work.

(define (script-fu-cupscale image drawable result scale prompt strength model seed)
  (plug-in-cupscale RUN-INTERACTIVE image drawable result scale prompt strength model seed))

(script-fu-register "script-fu-cupscale"
  "_Cupscale..."
  "Enlarge or repaint a layer or selection with a diffusion model"
  "cupscale"
  "MIT OR Apache-2.0"
  "2026"
  "RGB* GRAY*"
  SF-IMAGE      "Image" 0
  SF-DRAWABLE   "Layer" 0
  SF-OPTION     "Result" '("Enlarge into a new image"
                           "Scale this image"
                           "Repaint in place"
                           "Try on a piece of the middle")
  SF-ADJUSTMENT "Scale" (list 2 0.1 16 0.5 1 1 SF-SPINNER)
  SF-STRING     "Prompt (what the picture shows)" ""
  SF-ADJUSTMENT "Strength (0: the model's own)" (list 0 0 1 0.05 0.1 2 SF-SLIDER)
  SF-STRING     "Model (empty: the embedded one)" ""
  SF-ADJUSTMENT "Seed" (list 0 0 2147483647 1 10 0 SF-SPINNER))

(script-fu-menu-register "script-fu-cupscale" "<Image>/Filters/Enhance")
