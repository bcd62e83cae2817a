#!/bin/sh
# Makes the files of this folder: a clip of datasets/sounds-mini (CC0) as others might keep it. Run it in this folder.
set -e
clip=sonic_pi_samples_loop_breakbeat_3ad929.ogg
tar xf ../../../../datasets/sounds-mini/valid/0.tar "$clip"
ff() { ffmpeg -nostdin -v error -i "$clip" -map_metadata -1 -fflags +bitexact -flags:a +bitexact -y "$@"; }
# Softer, at half the rate; its last three quarters with a new start; with more bass and less treble.
ff -af volume=-9dB -ar 22050 -b:a 32k softer.mp3
ff -af atrim=start=0.437,asetpts=PTS-STARTPTS -c:a aac -b:a 48k later.m4a
ff -af bass=g=6,treble=g=-6 -c:a libvorbis -q:a 0 darker.ogg
rm "$clip"
