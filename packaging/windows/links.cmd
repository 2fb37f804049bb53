@echo off
rem Gives kbk.exe and kbk-catalog.exe, in the folder of this file, the other names that they are
rem commands under. Hard links take no space and no rights of an administrator, but NTFS.
cd /d "%~dp0"
for %%c in (kbk-cluster kbk-fetch kbk-filter kbk-offsets kbk-pack kbk-produce) do (
    if exist %%c.exe del %%c.exe
    mklink /H %%c.exe kbk.exe
    if not exist %%c.exe exit /b 1
)
for %%c in (kbk-import kbk-pull kbk-push) do (
    if exist %%c.exe del %%c.exe
    mklink /H %%c.exe kbk-catalog.exe
    if not exist %%c.exe exit /b 1
)
