@echo off
rem Part of the integration of cupscale-fast @version@ with @integration@.
rem Enlarges the pictures that Explorer's menu "Send to" hands over; each output appears beside its picture.
title Cupscale
"@program@" %*
if errorlevel 1 pause
