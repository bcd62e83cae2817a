#!/bin/sh
# What becomes of sounds on their way between archives: re-encodings of an audiofolder's clips, to measure `dataset overlap` by.
#
#     reencode.sh FOLDER OUT
#
# FOLDER has a metadata.csv whose first column is file_name, without commas in it; OUT becomes an audiofolder of 13 versions of
# each clip, named VERSION+CLIP. Needs ffmpeg (5.1 was used); a clip too short for a version is left out.
set -e
folder=$1 out=$2
mkdir "$out"
echo file_name,text,version > "$out/metadata.csv"
tail -n +2 "$folder/metadata.csv" | cut -d, -f1 | while read -r file; do
    version() {
        name="$1+$(echo "${file%.*}" | tr / _).$2"
        kind=$1
        shift 2
        if ffmpeg -nostdin -v quiet -threads 1 -i "$folder/$file" "$@" -y "$out/$name" &&
            [ "$(ffprobe -v quiet -show_entries format=duration -of csv=p=0 "$out/$name" | cut -d. -f1)" != "N/A" ]; then
            echo "$name,a version,$kind" >> "$out/metadata.csv"
        else
            rm -f "$out/$name"
        fi
    }
    version mp3_128 mp3 -b:a 128k
    version mp3_48 mp3 -b:a 48k
    version ogg_q0 ogg -c:a libvorbis -q:a 0
    version aac_64 m4a -c:a aac -b:a 64k
    version softer wav -af volume=-14dB
    version at_16_khz flac -ar 16000
    version at_8_khz flac -ar 8000
    version begun_later wav -af atrim=start=0.137
    version two_seconds wav -af atrim=start=1.0371:duration=2
    version padded wav -af "adelay=333|333,apad=pad_dur=0.5"
    version noisy wav -filter_complex "anoisesrc=a=0.003:c=white:d=12[n];[0:a][n]amix=inputs=2:duration=first:normalize=0"
    version cut_loud_mp3 mp3 -af atrim=start=0.21,volume=6dB -ar 22050 -b:a 56k
    version filtered_mp3 mp3 -af bass=g=6,treble=g=-6 -b:a 96k
done
