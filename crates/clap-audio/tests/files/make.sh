#!/bin/sh
# Makes the sound files of this folder; see README.md. Run it in this folder.
set -e
ff() { ffmpeg -nostdin -hide_banner -loglevel error -y "$@"; }
X='0.5*sin(2*PI*(200*t+1200*t*t))'
chirp() { # rate seconds channels, then output options and the file
    rate=$1 seconds=$2 channels=$3
    shift 3
    case $channels in
    1) layout=mono exprs="$X" ;;
    2) layout=stereo exprs="$X|0.5*$X" ;;
    6) layout=5.1 exprs="$X|0.5*$X|0|0|$X|0.5*$X" ;;
    esac
    ff -f lavfi -i "aevalsrc=exprs='$exprs':s=$rate:d=$seconds:c=$layout" -map_metadata -1 -fflags +bitexact \
        -flags:a +bitexact "$@"
}

for codec in u8 s16le s24le s32le f32le f64le alaw mulaw; do
    chirp 8000 0.25 1 -c:a "pcm_$codec" "$codec.wav"
done
chirp 8000 0.25 6 -c:a pcm_s16le 6_channels.wav
chirp 4000 0.25 1 -c:a pcm_s16le 4_khz.wav
chirp 8000 0.25 1 -c:a adpcm_ms -block_size 256 adpcm_ms.wav
chirp 8000 0.25 1 -c:a adpcm_ima_wav -block_size 256 adpcm_ima.wav
for codec in s16be s24be s32be; do
    chirp 8000 0.25 1 -c:a "pcm_$codec" "$codec.aiff"
done
for codec in s16le f32be f64be alaw mulaw; do
    chirp 8000 0.25 1 -c:a "pcm_$codec" -f aiff "$codec.aifc"
done
for codec in s16be s24be f32be alaw mulaw; do
    chirp 8000 0.25 1 -c:a "pcm_$codec" "$codec.au"
done
chirp 8000 0.25 2 -c:a pcm_s16be 2_channels.au
chirp 16000 0.5 2 -c:a flac -sample_fmt s16 s16.flac
chirp 16000 0.25 1 -c:a flac -sample_fmt s32 -bits_per_raw_sample 24 s24.flac
chirp 192000 0.05 1 -c:a flac 192_khz.flac
chirp 16000 0.5 2 -c:a flac -sample_fmt s16 -f ogg flac.oga
chirp 44100 0.75 2 -c:a libmp3lame -b:a 64k cbr.mp3
chirp 44100 0.75 1 -c:a libmp3lame -q:a 5 vbr.mp3
chirp 44100 0.75 1 -c:a libmp3lame -b:a 48k -write_xing 0 -id3v2_version 0 no_tag.mp3
chirp 8000 0.75 1 -c:a libmp3lame -b:a 16k 8_khz.mp3
chirp 44100 0.75 2 -c:a libvorbis -q:a 1 vorbis.ogg
chirp 44100 0.75 2 -c:a aac -b:a 160k aac.m4a
chirp 44100 0.75 1 -c:a aac -b:a 48k -movflags +frag_keyframe+empty_moov fragmented.m4a
chirp 44100 0.75 1 -c:a aac -b:a 48k adts.aac
chirp 16000 0.5 2 -c:a alac -sample_fmt s16p alac.m4a
chirp 48000 0.75 2 -c:a libopus -b:a 48k opus.opus
# Long enough for seeks beyond the lead that a decoder needs.
chirp 22050 4 1 -c:a libmp3lame -b:a 24k long.mp3
chirp 22050 4 1 -c:a libvorbis -q:a 0 long.ogg
chirp 22050 4 1 -c:a aac -b:a 24k long.m4a
chirp 22050 4 1 -c:a aac -b:a 24k long.aac
chirp 48000 4 2 -c:a libopus -b:a 24k long.opus
chirp 48000 0.5 1 -c:a libopus -b:a 12k -application voip -frame_duration 60 speech.opus
chirp 48000 0.3 6 -c:a libopus -b:a 96k surround.opus
# What libopus makes of its own files: the first channel.
for name in opus speech surround; do
    ff -c:a libopus -i "$name.opus" -af 'pan=mono|c0=c0' -c:a flac -sample_fmt s16 -map_metadata -1 -fflags +bitexact \
        -flags:a +bitexact "${name}_by_libopus.flac"
done
# Minutes in a few kB, for Ogg's search by page: a short chirp every 7.3 s, each higher than the one before.
mkdir -p long
ff -f lavfi -i "aevalsrc=exprs='if(lt(mod(t,7.3),0.03),0.3*sin(2*PI*(300+t)*t),0)':s=8000:d=500:c=mono" \
    -c:a libvorbis -q:a 0 -map_metadata -1 -fflags +bitexact -flags:a +bitexact long/clicks.ogg
